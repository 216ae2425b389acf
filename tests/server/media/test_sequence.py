"""Image sequences: formats, numbers, windows and what can be wrong with them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from megasam_server.media.open_plate import open_plate
from megasam_shared.errors import MegasamError

from tests.server.media.clips import corner, picture, write_pngs, write_still


def error_of(path: Path, *args, **kwargs) -> MegasamError:
    with pytest.raises(MegasamError) as caught:
        list(open_plate(path, *args, **kwargs))
    assert caught.value.message
    return caught.value


def linear(index: int, gain: float = 1.0) -> np.ndarray:
    """Scene-linear float32 of the test picture."""
    return (gain * (picture(index) / 255.0) ** 2.2).astype(np.float32)


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "dpx", "bmp", "tga"])
def test_eight_bit_formats_come_back_exactly(tmp_path, suffix):
    for number in range(1001, 1005):
        write_still(tmp_path / f"sh010_plate.{number}.{suffix}", picture(number - 1001))
    plate = open_plate(tmp_path)
    assert plate.info.kind == "sequence" and plate.info.name == "sh010_plate"
    assert plate.info.frame_numbers == [1001, 1002, 1003, 1004]
    assert plate.info.files[1] == f"sh010_plate.1002.{suffix}"
    assert plate.info.fps == 24 and plate.info.times == pytest.approx([0, 1 / 24, 2 / 24, 3 / 24])
    for index, frame in enumerate(plate):
        assert frame.dtype == np.uint8 and np.array_equal(frame, picture(index))


def test_jpeg(tmp_path):
    for number in range(2):
        write_still(tmp_path / f"a_{number}.jpg", picture(number), compression="jpeg:95")
    for index, frame in enumerate(open_plate(tmp_path / "a_0.jpg")):
        assert np.abs(frame.astype(int) - picture(index)).mean() < 4


@pytest.mark.parametrize("suffix", ["png", "tif", "dpx"])
def test_sixteen_bit_is_scaled(tmp_path, suffix):
    for number in range(2):
        write_still(tmp_path / f"a.{number}.{suffix}", picture(number).astype(np.uint16) * 257)
    for index, frame in enumerate(open_plate(tmp_path)):
        assert np.array_equal(frame, picture(index))


def test_ten_bit_video_dpx_is_scaled(tmp_path):
    for number in range(2):
        write_still(
            tmp_path / f"a.{number}.dpx",
            picture(number).astype(np.uint16) * 257,
            oiio__BitsPerSample=10,
            dpx__Transfer="Linear",
        )
    for index, frame in enumerate(open_plate(tmp_path)):
        assert np.abs(frame.astype(int) - picture(index)).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("alpha", [0, 40, 255])
def test_alpha_is_left_out(tmp_path, suffix, alpha):
    for number in range(2):
        veil = np.full((96, 128, 1), alpha, np.uint8)
        write_still(
            tmp_path / f"a.{number}.{suffix}",
            np.concatenate([picture(number), veil], axis=2),
            oiio__UnassociatedAlpha=1,
        )
    for index, frame in enumerate(open_plate(tmp_path)):
        assert np.array_equal(frame, picture(index))


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_becomes_rgb(tmp_path, channels):
    for number in range(2):
        names = ("Y", "A")[:channels]
        write_still(
            tmp_path / f"a.{number}.png",
            np.ascontiguousarray(picture(number)[..., :channels]),
            channelnames=names,
            oiio__UnassociatedAlpha=1,
        )
    for index, frame in enumerate(open_plate(tmp_path)):
        assert np.array_equal(frame, np.repeat(picture(index)[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("exif", "expected"),
    [
        (1, "top left"),
        (2, "top right"),
        (3, "bottom right"),
        (4, "bottom left"),
        (5, "top left"),
        (6, "top right"),
        (7, "bottom right"),
        (8, "bottom left"),
    ],
)
def test_exif_orientation(tmp_path, exif, expected):
    for number in range(2):
        write_still(tmp_path / f"a.{number}.jpg", picture(number), Orientation=exif)
    plate = open_plate(tmp_path)
    size = (96, 128) if exif >= 5 else (128, 96)
    assert (plate.info.width, plate.info.height) == size
    frame = next(iter(plate))
    assert frame.shape == (size[1], size[0], 3) and corner(frame) == expected
    turned = {5: np.swapaxes(picture(0), 0, 1), 6: np.rot90(picture(0), -1)}
    if exif in turned:
        assert np.abs(frame.astype(int) - turned[exif]).mean() < 8


@pytest.mark.parametrize("pixel_type", ["half", "float"])
def test_exr_is_exposed_once_for_the_clip(tmp_path, pixel_type):
    """A clip 100 times too dark looks like the right one, and a frame that is darker stays so."""
    for name, gain in (("normal", 1.0), ("dark", 0.01)):
        for number in range(6):
            frame_gain = gain * (0.5 if number == 3 else 1.0)
            write_still(tmp_path / name / f"a.{number}.exr", linear(number, frame_gain), pixel_type)
    normal, dark = (list(open_plate(tmp_path / n)) for n in ("normal", "dark"))
    for a, b in zip(normal, dark, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1
        assert a.std() > 25
    assert normal[3].mean() < 0.85 * normal[2].mean()
    assert 90 < np.median(normal[0]) < 150


def test_exr_windows(tmp_path):
    """Data window inside, and overscan: only the display window is the plate."""
    whole = linear(0) + 0.02
    inside = {"x": 60, "y": 40, "full_x": 20, "full_y": 10, "full_width": 128, "full_height": 96}
    over = {"x": -8, "y": -4, "full_x": 0, "full_y": 0, "full_width": 128, "full_height": 96}
    crop = np.ascontiguousarray(whole[30:80, 40:110])
    wide = np.pad(whole, ((4, 6), (8, 10), (0, 0)), constant_values=50.0)
    for number in range(2):
        write_still(tmp_path / "whole" / f"a.{number}.exr", whole)
        write_still(tmp_path / "inside" / f"a.{number}.exr", crop, **inside)
        write_still(tmp_path / "over" / f"a.{number}.exr", wide, **over)
    frames = {}
    for name in ("whole", "inside", "over"):
        plate = open_plate(tmp_path / name)
        assert (plate.info.width, plate.info.height) == (128, 96)
        frames[name] = next(iter(plate))
    assert np.array_equal(frames["over"], frames["whole"])
    shown = frames["inside"][30:80, 40:110]
    assert shown.min() > 0 and shown.std() > 20
    outside = frames["inside"].copy()
    outside[30:80, 40:110] = 0
    assert outside.max() == 0


def test_exr_channels_are_found_by_name(tmp_path):
    """Depth and layers beside the picture, in the alphabetical order that EXR writes."""
    rgb = linear(0)
    depth = np.full((96, 128, 1), 1000.0, np.float32)
    for number in range(2):
        write_still(tmp_path / "plain" / f"a.{number}.exr", rgb)
        write_still(
            tmp_path / "aov" / f"a.{number}.exr",
            np.concatenate([depth, rgb[..., ::-1]], axis=2),
            channelnames=("Z", "B", "G", "R"),
        )
        write_still(
            tmp_path / "layer" / f"a.{number}.exr",
            np.concatenate([depth, rgb], axis=2),
            channelnames=("Z", "beauty.R", "beauty.G", "beauty.B"),
        )
    frames = [next(iter(open_plate(tmp_path / n))) for n in ("plain", "aov", "layer")]
    assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[2])


def test_exr_header_gives_rate_and_pixel_aspect(tmp_path):
    for number in range(2):
        write_still(
            tmp_path / f"a.{number}.exr",
            linear(number),
            FramesPerSecond=("rational", (30000, 1001)),
            PixelAspectRatio=2.0,
        )
    plate = open_plate(tmp_path)
    assert plate.info.fps == pytest.approx(30000 / 1001)
    assert (plate.info.width, plate.info.height) == (256, 96)
    assert [notice.code for notice in plate.info.warnings] == ["non_square_pixels"]
    assert next(iter(plate)).shape == (96, 256, 3)
    assert open_plate(tmp_path, sequence_fps=25).info.fps == 25


def test_log_dpx_shows_the_scene_that_was_scanned(tmp_path):
    """Cineon codes of a scene and the same scene as linear EXR look alike."""
    for number in range(3):
        scene = np.maximum(linear(number), 0.01)
        black = 10 ** ((95 - 685) * 0.002 / 0.6)
        code = 685 + np.log10(scene * (1 - black) + black) * 0.6 / 0.002
        values = np.rint(code / 1023 * 65535).astype(np.uint16)
        write_still(tmp_path / "exr" / f"a.{number}.exr", scene)
        write_still(
            tmp_path / "dpx" / f"a.{number}.dpx",
            values,
            oiio__BitsPerSample=10,
            dpx__Transfer="Printing density",
            dpx__FrameRate=25.0,
        )
    log, reference = open_plate(tmp_path / "dpx"), open_plate(tmp_path / "exr")
    assert log.info.fps == 25
    for a, b in zip(log, reference, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 1.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pixel_type", ["half", "float"])
def test_non_finite_pixels(tmp_path, value, pixel_type):
    for number in range(1001, 1005):
        values = linear(number)
        if number == 1003:
            values[10, 20:27, 1] = value
        write_still(tmp_path / f"a.{number}.exr", values, pixel_type)
    error = error_of(tmp_path)
    assert error.code == "non_finite_pixels"
    assert "1003" in error.message and "7 pixels" in error.message


def test_bright_float_pixels_are_not_an_error(tmp_path):
    for number in range(2):
        values = linear(number)
        values[0, 0] = 1e9
        write_still(tmp_path / f"a.{number}.exr", values, "float")
    assert next(iter(open_plate(tmp_path)))[0, 0].min() == 255


def test_gap(tmp_path):
    numbers = [n for n in range(1001, 1021) if n not in (1005, 1011, 1012)]
    write_pngs(tmp_path, numbers)
    error = error_of(tmp_path)
    assert error.code == "missing_frames" and "1005, 1011-1012" in error.message
    assert error_of(tmp_path, 1004, 1008).code == "missing_frames"
    assert open_plate(tmp_path, 1006, 1010).info.frame_numbers == list(range(1006, 1011))
    assert len(list(open_plate(tmp_path, 1006, 1010))) == 5


@pytest.mark.parametrize(
    ("first", "last", "code"),
    [
        (1000, None, "frame_range_outside"),
        (None, 1006, "frame_range_outside"),
        (1, 5, "frame_range_outside"),
        (1004, 1002, "frame_range_empty"),
        (1003, 1003, "too_few_frames"),
    ],
)
def test_range(tmp_path, first, last, code):
    write_pngs(tmp_path, range(1001, 1006))
    assert error_of(tmp_path, first, last).code == code


def test_too_many_frames_names_both_numbers(tmp_path):
    write_pngs(tmp_path, range(1, 8), 64, 64)
    error = error_of(tmp_path, max_frames=5)
    assert error.code == "too_many_frames" and "7" in error.message and "5" in error.message
    assert len(open_plate(tmp_path, 1, 5, max_frames=5)) == 5


def test_one_frame(tmp_path):
    write_pngs(tmp_path, [1001])
    assert error_of(tmp_path).code == "too_few_frames"
    assert error_of(tmp_path / "plate.1001.png").code == "too_few_frames"


def test_size_change(tmp_path):
    write_pngs(tmp_path, range(1, 4))
    write_pngs(tmp_path, [4], 130, 96)
    error = error_of(tmp_path)
    assert error.code == "size_changes"
    assert "Frame 4" in error.message and "130 x 96" in error.message


def test_encoding_change(tmp_path):
    for number in range(3):
        values = picture(number) if number < 2 else linear(number)
        write_still(tmp_path / f"a.{number}.tif", values)
    assert error_of(tmp_path).code == "encoding_changes"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "dpx", "exr"])
def test_cut_off_frame(tmp_path, suffix):
    for number in range(3):
        values = linear(number) if suffix == "exr" else picture(number)
        path = write_still(tmp_path / f"a.{number}.{suffix}", values)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    error = error_of(tmp_path)
    assert error.code == "frame_unreadable" and f"a.2.{suffix}" in error.message


def test_text_named_png(tmp_path):
    for number in range(2):
        (tmp_path / f"a.{number}.png").write_text("not a picture")
    assert error_of(tmp_path).code == "frame_unreadable"


def test_missing_file_empty_folder_and_other_suffix(tmp_path):
    assert error_of(tmp_path / "nothing.mp4").code == "plate_not_found"
    assert error_of(tmp_path / "nothing" / "a.0001.png").code == "plate_not_found"
    (tmp_path / "empty").mkdir()
    assert error_of(tmp_path / "empty").code == "plate_empty"
    (tmp_path / "notes.docx").write_text("x")
    error = error_of(tmp_path / "notes.docx")
    assert error.code == "unsupported_format" and ".mp4" in error.hint and ".exr" in error.hint


PROBE = """
import os, sys
from pathlib import Path
from megasam_server.media.open_plate import open_plate
from megasam_shared.errors import MegasamError
if os.geteuid() == 0:  # root may read everything
    os.setuid(65534)
for path in sys.argv[1:]:
    try:
        open_plate(Path(path))
        print("opened")
    except MegasamError as error:
        print(error.code)
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX modes here")
def test_no_permission():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        closed = write_pngs(folder / "closed", range(2))
        frames = write_pngs(folder / "frames", range(2))
        movie = folder / "closed.mp4"
        movie.write_bytes(b"x")
        for locked in (closed, frames / "plate.0000.png", movie):
            locked.chmod(0)
        paths = [closed, closed / "plate.0000.png", frames, movie]
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *map(str, paths)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        closed.chmod(0o755)
    assert done.stdout.split() == ["plate_unreadable"] * 4, done.stderr
