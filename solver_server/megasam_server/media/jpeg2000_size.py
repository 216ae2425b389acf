"""The size in the header of a JPEG 2000 file, whose reader decodes all of it to tell the size."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_BOX_FILE = bytes.fromhex("0000000c6a502020")
_CODESTREAM = bytes.fromhex("ff4fff51")  # start, then SIZ: always the first two markers
_MOST_BOXES = 1000


def jpeg2000_size(path: Path) -> tuple[int, int, int] | None:
    """Width, height and number of components; None for a file that is not JPEG 2000, or not whole.

    Source: ITU-T T.800, annex A.5.1 (SIZ marker segment) and annex I (boxes).
    """
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(_codestream_offset(file) if start == _BOX_FILE else 0)
        # Markers; Lsiz, Rsiz; Xsiz, Ysiz, XOsiz, YOsiz; four sizes of tiles; Csiz.
        header = file.read(42)
    if not header.startswith(_CODESTREAM) or len(header) < 42:
        return None
    right, bottom, left, top = (int.from_bytes(header[i : i + 4], "big") for i in (8, 12, 16, 20))
    return right - left, bottom - top, int.from_bytes(header[40:42], "big")


def _codestream_offset(file: BinaryIO) -> int:
    """Where the box with the codestream has its content; 0 when there is none."""
    offset = 0
    for _ in range(_MOST_BOXES):
        file.seek(offset)
        head = file.read(16)
        if len(head) < 8:
            return 0
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        content = 8
        if length == 1:  # the length follows in eight bytes
            length, content = int.from_bytes(head[8:16], "big"), 16
        if kind == b"jp2c":
            return offset + content
        if length < content:  # the last box, or nonsense
            return 0
        offset += length
    return 0
