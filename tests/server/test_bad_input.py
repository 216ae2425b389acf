"""What goes in wrong comes back as a message that says so; nothing half-written stays."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import cv2
import numpy as np
import OpenImageIO as oiio
import pytest
from megasam_server.media.movie_writer import write_movie

SIZE = (192, 128)
COUNT = 8


def frames(count: int = COUNT, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A textured picture that slides by, uint8 [N,H,W,3]."""
    width, height = size
    noise = np.random.default_rng(5).integers(0, 255, (height // 4, width // 2, 3), np.uint8)
    wide = cv2.resize(noise, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, 3 * i : 3 * i + width] for i in range(count)])


def sequence(folder: Path, pictures: np.ndarray, numbers: list[int] | None = None) -> Path:
    folder.mkdir()
    for number, rgb in zip(numbers or range(1001, 1001 + len(pictures)), pictures, strict=True):
        cv2.imwrite(str(folder / f"plate.{number}.png"), rgb[..., ::-1])
    return folder


def missing_file(tmp: Path) -> list[object]:
    return [tmp / "gone.mp4"]


def empty_folder(tmp: Path) -> list[object]:
    (tmp / "empty").mkdir()
    return [tmp / "empty"]


def one_frame(tmp: Path) -> list[object]:
    return [sequence(tmp / "one", frames(1))]


def all_black(tmp: Path) -> list[object]:
    write_movie(tmp / "black.mp4", np.zeros_like(frames()), 24)
    return [tmp / "black.mp4"]


def truncated_movie(tmp: Path) -> list[object]:
    write_movie(tmp / "whole.mp4", frames(), 24)
    content = (tmp / "whole.mp4").read_bytes()
    (tmp / "cut.mp4").write_bytes(content[: len(content) // 2])
    return [tmp / "cut.mp4"]


def text_as_movie(tmp: Path) -> list[object]:
    (tmp / "notes.mp4").write_text("Not a movie at all.\n" * 50)
    return [tmp / "notes.mp4"]


def mask_of_another_size(tmp: Path) -> list[object]:
    masks = sequence(tmp / "masks", np.zeros_like(frames(size=(96, 64))))
    return [sequence(tmp / "plate", frames()), "--masks", masks]


def too_few_masks(tmp: Path) -> list[object]:
    masks = sequence(tmp / "masks", np.zeros_like(frames(COUNT - 3)))
    return [sequence(tmp / "plate", frames()), "--masks", masks]


def frame_gap(tmp: Path) -> list[object]:
    numbers = [1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009]
    return [sequence(tmp / "gap", frames(), numbers)]


def not_a_number(tmp: Path) -> list[object]:
    folder = tmp / "exr"
    folder.mkdir()
    for index, rgb in enumerate(frames().astype(np.float32) / 255):
        if index == 4:
            rgb[60:64, 90:95] = np.nan
        picture = oiio.ImageBuf(np.ascontiguousarray(rgb))
        assert picture.write(str(folder / f"plate.{1001 + index}.exr"))
    return [folder]


def setting_out_of_range(tmp: Path) -> list[object]:
    return [sequence(tmp / "plate", frames()), "--tracking-resolution", 8]


def range_outside(tmp: Path) -> list[object]:
    return [sequence(tmp / "plate", frames()), "--frames", "1005-1050"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (missing_file, ["gone.mp4"]),
        (empty_folder, ["empty"]),
        (one_frame, ["only 1 frame"]),
        (all_black, ["black"]),
        (truncated_movie, ["cut.mp4"]),
        (text_as_movie, ["notes.mp4"]),
        (mask_of_another_size, ["96 x 64", "192 x 128"]),
        (too_few_masks, ["1006-1008"]),
        (frame_gap, ["1004"]),
        (not_a_number, ["1005", "NaN"]),
        (setting_out_of_range, ["tracking", "8", "160"]),
        (range_outside, ["1050", "1008"]),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(megasam, tmp_path, make, said):
    out = tmp_path / "shot"
    done = megasam("solve", *make(tmp_path), "--out", out, timeout=60)
    assert done.code == 2, done.out + done.err
    for fragment in said:
        assert fragment.lower() in done.err.lower()
    assert "Traceback" not in done.err
    assert "internal" not in done.err
    assert not list(tmp_path.glob("shot*"))


def obey_permissions() -> None:
    """Take from a process that root starts the right to read what permissions forbid."""
    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
    for capability in (dac_override, dac_read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="permissions are taken away the Linux way")
def test_a_folder_that_may_not_be_read(megasam, tmp_path):
    plate = sequence(tmp_path / "plate", frames())
    plate.chmod(0)
    try:
        done = megasam(
            *("solve", plate, "--out", tmp_path / "shot"), timeout=60, preexec_fn=obey_permissions
        )
    finally:
        plate.chmod(0o700)
    assert done.code == 2
    assert "permission" in done.err.lower() or "not readable" in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("shot*"))


@pytest.fixture
def small_disk(mount_disk):
    return mount_disk(2)


def test_the_disk_of_the_server_is_full(megasam, tmp_path, small_disk):
    plate = sequence(tmp_path / "plate", frames(40))
    done = megasam("solve", plate, "--out", tmp_path / "shot", tmpdir=small_disk, timeout=60)
    assert done.code == 2
    assert "disk" in done.err.lower()
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("shot*"))
    assert list(small_disk.iterdir()) == []


def test_the_disk_for_the_results_is_full(megasam, room_clip, small_disk):
    (small_disk / "filler").write_bytes(bytes(1_800_000))
    out = small_disk / "shot"
    done = megasam("solve", room_clip.movie, "--out", out, "--engine", "megasam", timeout=120)
    assert done.code == 2
    assert "disk" in done.err.lower() or "space" in done.err.lower()
    assert "Traceback" not in done.err
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
