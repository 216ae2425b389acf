"""What the dialog finds in real files, read without any image library."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import OpenImageIO as oiio
import pytest
from megasam_maya.picture_header import Header, read_header
from megasam_maya.plate import inspect_plate
from megasam_shared.errors import MegasamError

WIDTH, HEIGHT = 322, 182


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_size_of_pictures(tmp_path, suffix):
    path = tmp_path / f"sh010.1001.{suffix}"
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    assert read_header(path) == Header(WIDTH, HEIGHT)


@pytest.mark.parametrize("suffix", ["exr", "dpx", "tif", "jpg"])
def test_size_and_rate_of_film_formats(tmp_path, suffix):
    path = tmp_path / f"sh010.1001.{suffix}"
    spec = oiio.ImageSpec(WIDTH, HEIGHT, 3, "half" if suffix == "exr" else "uint8")
    rate = Fraction(24000, 1001)
    if suffix == "exr":
        spec.attribute("FramesPerSecond", oiio.TypeDesc("rational"), (24000, 1001))
    if suffix == "dpx":
        spec.attribute("dpx:FrameRate", float(rate))
    out = oiio.ImageOutput.create(str(path))
    assert out.open(str(path), spec)
    out.write_image(np.zeros((HEIGHT, WIDTH, 3), np.float32))
    out.close()
    header = read_header(path)
    assert (header.width, header.height) == (WIDTH, HEIGHT)
    if suffix in ("exr", "dpx"):
        assert header.fps == pytest.approx(float(rate), rel=1e-6)


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30000, 1001)])
def test_size_rate_and_length_of_movies(tmp_path, suffix, rate):
    path = tmp_path / f"sh020.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(37):
            picture = np.full((HEIGHT, WIDTH, 3), index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    plate = inspect_plate(path)
    assert (plate.width, plate.height, plate.first, plate.last) == (WIDTH, HEIGHT, 1, 37)
    assert plate.fps == pytest.approx(float(rate), rel=1e-3)
    assert plate.is_movie and plate.label == f"sh020.{suffix}"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"\x76\x2f\x31\x01\x02\0\0\0", b"SDPX"),
        *(b"II*\0\xff\xff\xff\xff", b"BM", b"\0\0\0\x14ftypisom" + b"\xff" * 40, b"\xff" * 4000),
        b"\0\0\0\x10moov\0\0\0\x08trak" * 200,
    ],
)
def test_damaged_headers_are_no_size_and_no_error(tmp_path, content):
    path = tmp_path / "x.1001.png"
    path.write_bytes(content)
    assert read_header(path) is None


def test_headers_cut_anywhere_are_no_error(tmp_path):
    spec = oiio.ImageSpec(WIDTH, HEIGHT, 3, "half")
    for suffix in ("exr", "dpx", "tif", "jpg", "png"):
        whole = tmp_path / f"whole.{suffix}"
        out = oiio.ImageOutput.create(str(whole))
        out.open(str(whole), spec)
        out.write_image(np.zeros((HEIGHT, WIDTH, 3), np.float32))
        out.close()
        data = whole.read_bytes()
        for length in range(0, min(len(data), 2100), 37):
            cut = tmp_path / f"cut.{suffix}"
            cut.write_bytes(data[:length])
            header = read_header(cut)
            assert header is None or (header.width, header.height) == (WIDTH, HEIGHT)


def test_a_sequence_says_its_range_and_what_is_missing(tmp_path):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for frame in (1001, 1002, 1005, 1006, 1009):
        cv2.imwrite(str(tmp_path / f"sh010.{frame}.png"), picture)
    plate = inspect_plate(tmp_path / "sh010.1005.png")
    assert plate.label == "sh010.%04d.png" and plate.folder == tmp_path
    assert plate.summary == f"{WIDTH} x {HEIGHT} · 1001-1009 (5 frames) · fps unknown"
    assert plate.missing_text == "4 frames missing: 1003-1004, 1007-1008"


@pytest.mark.parametrize("name", ["sh010.mov", "nothing", "sh010.%04d.exr"])
def test_a_plate_that_is_not_there(tmp_path, name):
    with pytest.raises(MegasamError) as caught:
        inspect_plate(Path(tmp_path / name))
    assert caught.value.code == "plate_not_found"
