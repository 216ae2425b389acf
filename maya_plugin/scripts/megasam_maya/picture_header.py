"""Size and frame rate of pictures and movies from their headers, with the standard library only.

The dialog says what it found before anything is sent. Formats that are not read here (MKV, MXF,
WebP ...) give None: the solver, which has real decoders, tells their size when it reads the plate.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_LARGEST_HEADER = 1 << 20
_LARGEST_SIDE = 1 << 17
# Start of frame markers of JPEG: C0 to CF without DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}


@dataclass(frozen=True)
class Header:
    """What a header says.

    Attributes:
        width, height: pixels as shown, with the rotation of a phone's movie applied.
        fps: frames per second; None where the file does not say.
        frames: number of frames of a movie; None for a picture or where the file does not say.
    """

    width: int
    height: int
    fps: float | None = None
    frames: int | None = None


def read_header(path: Path) -> Header | None:
    """What the header of a picture or movie says; None when it cannot be read."""
    try:
        with path.open("rb") as file:
            header = _read(file)
    except (OSError, struct.error, ValueError, IndexError):
        return None
    if header is None:
        return None
    fits = 0 < header.width < _LARGEST_SIDE and 0 < header.height < _LARGEST_SIDE
    return header if fits else None


def _read(file: BinaryIO) -> Header | None:
    start = file.read(12)
    file.seek(0)
    if start.startswith(b"\x89PNG"):
        return Header(*struct.unpack(">II", file.read(24)[16:]))
    if start.startswith(b"\xff\xd8"):
        return _jpeg(file)
    if start.startswith(b"\x76\x2f\x31\x01"):
        return _exr(file)
    if start[:4] in (b"SDPX", b"XPDS"):
        return _dpx(file, ">" if start.startswith(b"SDPX") else "<")
    if start[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(file, "<" if start.startswith(b"II") else ">")
    if start.startswith(b"BM"):
        width, height = struct.unpack("<ii", file.read(26)[18:])
        return Header(width, abs(height))
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _quicktime(file)
    return None


def _jpeg(file: BinaryIO) -> Header | None:
    file.seek(2)
    while True:
        marker = file.read(2)
        while marker[1:] == b"\xff":
            marker = marker[1:] + file.read(1)
        (length,) = struct.unpack(">H", file.read(2))
        if marker[0] != 0xFF:
            return None
        if marker[1] in _JPEG_FRAMES:
            height, width = struct.unpack(">xHH", file.read(5))
            return Header(width, height)
        file.seek(length - 2, 1)


def _exr(file: BinaryIO) -> Header | None:
    data = file.read(_LARGEST_HEADER)
    position, size, fps = 8, None, None
    while data[position]:
        name_end = data.index(0, position)
        type_end = data.index(0, name_end + 1)
        name = data[position:name_end]
        (length,) = struct.unpack_from("<I", data, type_end + 1)
        value = type_end + 5
        if name == b"displayWindow":
            left, top, right, bottom = struct.unpack_from("<4i", data, value)
            size = (right - left + 1, bottom - top + 1)
        elif name.lower() == b"framespersecond" and length == 8:
            above, below = struct.unpack_from("<iI", data, value)
            fps = above / below if below else None
        position = value + length
    return Header(*size, fps) if size else None


def _dpx(file: BinaryIO, order: str) -> Header:
    data = file.read(2048)
    width, height = struct.unpack_from(f"{order}II", data, 772)
    # Film header first, television header second; unset is NaN (all bits one) or 0.
    rates = struct.unpack_from(f"{order}f", data, 1724) + struct.unpack_from(
        f"{order}f", data, 1940
    )
    fps = next((rate for rate in rates if math.isfinite(rate) and 1 <= rate <= 1000), None)
    return Header(width, height, fps)


def _tiff(file: BinaryIO, order: str) -> Header | None:
    file.seek(4)
    (directory,) = struct.unpack(f"{order}I", file.read(4))
    file.seek(directory)
    (count,) = struct.unpack(f"{order}H", file.read(2))
    found = {}
    for _ in range(count):
        tag, kind, _, value = struct.unpack(f"{order}HHI4s", file.read(12))
        if tag in (256, 257):
            found[tag] = struct.unpack(f"{order}H2x" if kind == 3 else f"{order}I", value)[0]
    return Header(found[256], found[257]) if len(found) == 2 else None


def _quicktime(file: BinaryIO) -> Header | None:
    """ISO 14496-12: the first video track of ``moov``."""
    size = file.seek(0, 2)
    track: dict[bytes, bytes] = {}
    for kind, start, end in _boxes(file, 0, size):
        if kind == b"trak":
            if track.get(b"hdlr", b"")[8:12] == b"vide":
                break
            track = {}
        elif kind in (b"tkhd", b"mdhd", b"hdlr", b"stts") and (
            kind != b"hdlr" or kind not in track
        ):
            file.seek(start)
            track[kind] = file.read(min(end - start, _LARGEST_HEADER))
    if track.get(b"hdlr", b"")[8:12] != b"vide":
        return None
    return _video_track(track)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, first and last byte of the content of each box, parents before what they hold."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            content += 8
        stop = end if size == 0 else start + size
        if stop <= start or stop > end:
            return
        yield kind, content, stop
        if kind in _CONTAINERS:
            yield from _boxes(file, content, stop)
        start = stop


def _video_track(track: dict[bytes, bytes]) -> Header:
    long_form = track[b"tkhd"][0] == 1
    matrix = struct.unpack_from(">9i", track[b"tkhd"], 52 if long_form else 40)
    width, height = (
        side >> 16 for side in struct.unpack_from(">II", track[b"tkhd"], 88 if long_form else 76)
    )
    if matrix[0] == 0 and matrix[1] != 0:  # turned by a quarter
        width, height = height, width
    (timescale,) = struct.unpack_from(">I", track[b"mdhd"], 20 if track[b"mdhd"][0] == 1 else 12)
    times = track.get(b"stts", b"\0" * 8)
    (entries,) = struct.unpack_from(">I", times, 4)
    runs = [struct.unpack_from(">II", times, 8 + 8 * i) for i in range(entries)]
    frames = sum(count for count, _ in runs)
    ticks = sum(count * delta for count, delta in runs)
    fps = frames * timescale / ticks if ticks else None
    return Header(width, height, fps, frames or None)
