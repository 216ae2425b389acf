"""Small files that decode to gigabytes: refused by their headers, with next to no memory taken."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import OpenImageIO as oiio
import pytest
from megasam_server.media.jpeg2000_size import jpeg2000_size
from megasam_server.media.picture_limits import PictureLimits
from megasam_shared.errors import MegasamError

# Reads a plate under limits, and prints how that ended and by how many MiB the process grew.
READ = """
import resource, sys
from pathlib import Path
from megasam_server.media.open_plate import open_plate
from megasam_shared.errors import MegasamError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
try:
    code = "read" if next(iter(open_plate(Path(sys.argv[1])))) is not None else ""
except MegasamError as error:
    code = error.code
print(code, peak() - before)
"""


def read(path: Path, limits: str = "") -> tuple[str, int]:
    environment = os.environ | {"MEGASAM_PICTURE_LIMITS": limits}
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    code, grown = done.stdout.split()
    return code, int(grown)


def png_bomb(path: Path, side: int) -> None:
    """A picture of one colour: ``side`` squared pixels in a thousandth of the bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = zlib.compress(bytes((side + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def write_still(path: Path, width: int, height: int, kind: str = "uint8") -> None:
    out = oiio.ImageOutput.create(str(path))
    assert out.open(str(path), oiio.ImageSpec(width, height, 3, kind.removesuffix("32")))
    assert out.write_image(np.zeros((height, width, 3), kind))
    out.close()


def bombs(folder: Path, suffix: str, make) -> Path:
    folder.mkdir()
    for number in (1, 2):
        make(folder / f"bomb.{number}.{suffix}")
    return folder


def test_png_that_is_a_thousand_times_its_file(tmp_path):
    plate = bombs(tmp_path / "plate", "png", lambda path: png_bomb(path, 3000))
    assert (plate / "bomb.1.png").stat().st_size < 10_000
    code, grown = read(plate, "pixels=8999999")
    assert code == "plate_too_large" and grown < 25
    assert read(plate, "pixels=9000000")[0] == "read"


def test_header_that_claims_what_nobody_could_hold(tmp_path):
    def forged(path: Path) -> None:
        png_bomb(path, 64)
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)

    code, grown = read(bombs(tmp_path / "plate", "png", forged))
    assert code in ("plate_too_large", "frame_unreadable") and grown < 25


def test_bytes_of_a_frame_are_limited_too(tmp_path):
    """An EXR may be small in pixels, and each of them large."""

    def floats(path: Path) -> None:
        write_still(path, 1500, 1500, "float32")

    plate = bombs(tmp_path / "plate", "exr", floats)
    assert (plate / "bomb.1.exr").stat().st_size < 200_000
    code, grown = read(plate, f"frame_bytes={25 << 20}")
    assert code == "plate_too_large" and grown < 20


def test_jpeg_2000_is_not_decoded_to_learn_its_size(tmp_path):
    def flat(path: Path) -> None:
        write_still(path, 3000, 2000)

    plate = bombs(tmp_path / "plate", "jp2", flat)
    path = plate / "bomb.1.jp2"
    assert path.stat().st_size < 2000
    assert jpeg2000_size(path) == (3000, 2000, 3)
    for limits in ("pixels=5999999", f"frame_bytes={60 << 20}"):
        code, grown = read(plate, limits)
        assert code == "plate_too_large" and grown < 25
    # The codestream alone, and hidden behind a suffix of another format.
    data = path.read_bytes()
    bare = tmp_path / "bare.jp2"
    bare.write_bytes(data[data.index(b"\xff\x4f\xff\x51") :])
    assert jpeg2000_size(bare) == (3000, 2000, 3)
    hidden = bombs(tmp_path / "hidden", "png", lambda path: path.write_bytes(data))
    code, grown = read(hidden, "pixels=6000001")
    assert code == "frame_unreadable" and grown < 25


@pytest.mark.parametrize("data", [b"", b"\xff\x4f\xff\x51", bytes.fromhex("0000000c6a502020") * 99])
def test_what_is_no_jpeg_2000_has_no_size(tmp_path, data):
    (tmp_path / "a.jp2").write_bytes(data)
    assert jpeg2000_size(tmp_path / "a.jp2") is None


def write_movie(path: Path, side: int, frames: int = 3) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame(side, side, "yuv420p")
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        for pts in range(frames):
            picture.pts = pts
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def test_movie_of_large_pictures_is_refused_unseen(tmp_path):
    write_movie(tmp_path / "bomb.mp4", 4000)
    code, grown = read(tmp_path / "bomb.mp4", "pixels=1000000")
    assert code in ("plate_too_large", "plate_size_unreadable") and grown < 40


def test_movie_whose_stream_is_larger_than_its_header_says(tmp_path):
    """The size stands in the track header, the sample entry and the stream itself: only the last
    one decides how much memory decoding takes."""
    path = tmp_path / "forged.mp4"
    write_movie(path, 2048)
    data = path.read_bytes()
    entry = data.index(b"mp4v") + 4 + 24
    assert struct.unpack(">HH", data[entry : entry + 4]) == (2048, 2048)
    path.write_bytes(data[:entry] + struct.pack(">HH", 128, 128) + data[entry + 4 :])
    code, grown = read(path, "pixels=1000000")
    assert code in ("damaged_movie", "plate_size_unreadable") and grown < 25


def test_movie_with_too_many_frames(tmp_path):
    write_movie(tmp_path / "long.mp4", 64, frames=12)
    assert read(tmp_path / "long.mp4", "frames=10")[0] == "plate_too_long"


def test_limits_travel_as_text():
    limits = PictureLimits(side=99, frames=7)
    assert PictureLimits.from_text(limits.to_text()) == limits
    assert PictureLimits.from_text("") == PictureLimits()
    for text in ("side", "side=", "side=-1", "side=x", "depth=3", "side=0"):
        with pytest.raises(MegasamError):
            PictureLimits.from_text(text)
