"""From a plate to the frames that the solver reads, and the masks that go with them."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megasam_server.media.decode import decode, solver_size
from megasam_server.media.frame_store import FrameStore, write_frame_store
from megasam_server.media.masks import decode_masks, mask_of_picture, reduce_mask
from megasam_server.media.movie_writer import write_movie
from megasam_server.media.open_plate import open_plate
from megasam_server.pipeline.progress import SilentProgress
from megasam_shared.errors import MegasamError

from tests.server.media.clips import encode_movie, picture, pictures, write_pngs, write_still

SILENT = SilentProgress()


class Recorder(SilentProgress):
    def __init__(self) -> None:
        self.steps: list[tuple[str, float, float]] = []
        self.previews: list[tuple[str, int, bytes]] = []

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.steps.append((stage, done, total))

    def preview(self, stage: str, frame: int, jpeg: bytes) -> None:
        self.previews.append((stage, frame, jpeg))


def decoded(path: Path, tmp_path: Path, limit: int = 4096) -> tuple[FrameStore, object]:
    plate = open_plate(path)
    return decode(plate, tmp_path / "frames.raw", limit, SILENT), plate.info


def error_of(call, *args) -> MegasamError:
    with pytest.raises(MegasamError) as caught:
        call(*args)
    return caught.value


def test_frames_are_stored_and_read_in_chunks(tmp_path):
    plate = open_plate(write_pngs(tmp_path / "plate", range(10)))
    progress = Recorder()
    store = decode(plate, tmp_path / "work" / "frames.raw", 512, progress)
    assert (store.num_frames, store.width, store.height, store.channels) == (10, 128, 96, 3)
    assert store.read(3, 6).shape == (3, 96, 128, 3) and store.read(8, 99).shape[0] == 2
    for index in range(10):
        assert np.array_equal(store.frame(index), picture(index))
    assert progress.steps == [("plate", done, 10) for done in range(11)]
    stage, number, jpeg = progress.previews[0]
    assert (stage, number) == ("plate", plate.info.frame_numbers[0])
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (96, 128, 3)
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["frames.raw"]


def test_frames_are_reduced_by_area(tmp_path):
    store, _ = decoded(write_pngs(tmp_path / "plate", range(2), 400, 300), tmp_path, 200)
    assert (store.width, store.height) == (200, 150)
    expected = picture(1, 400, 300).reshape(150, 2, 200, 2, 3).mean(axis=(1, 3))
    assert np.abs(store.frame(1) - expected).max() <= 1


@given(width=st.integers(64, 9000), height=st.integers(64, 9000), limit=st.integers(64, 2000))
@settings(max_examples=200, deadline=None)
def test_solver_size_keeps_the_shape(width, height, limit):
    try:
        small = solver_size(width, height, limit)
    except MegasamError as error:
        assert error.code == "plate_too_small"
        assert min(width, height) * min(1, limit / max(width, height)) < 64
        return
    assert max(small) <= limit or small == (width, height)
    assert min(small) >= 64 and small[0] <= width and small[1] <= height
    assert abs(small[0] / width - small[1] / height) <= 1 / min(width, height) + 1e-9


def test_4k_portrait_and_odd_sizes(tmp_path):
    sizes = {"uhd": (3840, 2160, 960, 540), "odd": (301, 203, 301, 203), "tall": (90, 700, 90, 700)}
    for name, (width, height, small_width, small_height) in sizes.items():
        folder = tmp_path / name
        for number in range(2):
            write_still(folder / f"a.{number}.dpx", picture(number, width, height))
        store, info = decoded(folder, tmp_path, 960)
        assert (info.width, info.height) == (width, height)
        assert (store.width, store.height) == (small_width, small_height)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_clip_without_picture(tmp_path, level):
    write_movie(tmp_path / "black.mp4", (np.full((96, 128, 3), level, np.uint8),) * 6, 24)
    error = error_of(decoded, tmp_path / "black.mp4", tmp_path)
    assert error.code == "no_picture_content" and "black" in error.message
    assert [p.name for p in tmp_path.iterdir()] == ["black.mp4"]


def test_black_exr(tmp_path):
    for number in range(3):
        write_still(tmp_path / "a" / f"a.{number}.exr", np.zeros((96, 128, 3), np.float32))
    assert error_of(decoded, tmp_path / "a", tmp_path).code == "no_picture_content"


def test_noise_on_black_is_no_picture_but_a_dim_picture_is_one(tmp_path):
    noise = np.random.default_rng(1)
    for number in range(3):
        grain = noise.integers(0, 3, (96, 128, 3), dtype=np.uint8)
        write_still(tmp_path / "noise" / f"a.{number}.png", grain)
        write_still(tmp_path / "dim" / f"a.{number}.png", picture(number) // 12)
    assert error_of(decoded, tmp_path / "noise", tmp_path).code == "no_picture_content"
    assert decoded(tmp_path / "dim", tmp_path)[0].num_frames == 3


def test_black_frames_at_the_head_are_allowed(tmp_path):
    frames = [np.zeros((96, 128, 3), np.uint8)] * 3 + list(pictures(3))
    write_movie(tmp_path / "a.mp4", frames, 24)
    assert decoded(tmp_path / "a.mp4", tmp_path)[0].num_frames == 6


def test_bad_frame_leaves_no_file(tmp_path):
    folder = write_pngs(tmp_path / "plate", range(5))
    (folder / "plate.0003.png").write_bytes(b"broken")
    error = error_of(decoded, folder, tmp_path)
    assert error.code == "frame_unreadable" and "plate.0003.png" in error.message
    assert [p.name for p in tmp_path.iterdir()] == ["plate"]


def test_full_disk_while_writing(tmp_path):
    """The unfinished file is a link to a device that is always full."""
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full here")
    plate = open_plate(write_pngs(tmp_path / "plate", range(3)))
    (tmp_path / "frames.raw.part").symlink_to("/dev/full")
    error = error_of(decode, plate, tmp_path / "frames.raw", 512, SILENT)
    assert error.code == "disk_full" and str(tmp_path) in error.message
    assert [p.name for p in tmp_path.iterdir()] == ["plate"]


def test_disk_too_small_is_told_before_decoding(tmp_path):
    store = FrameStore(tmp_path / "frames.raw", 10**9, 1920, 1080, 3)
    error = error_of(write_frame_store, store, iter(()))
    assert error.code == "disk_full" and "MiB" in error.message
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_never_short(tmp_path):
    store = FrameStore(tmp_path / "frames.raw", 3, 128, 96, 3)
    with pytest.raises(ValueError, match="2 frames"):
        write_frame_store(store, pictures(2))
    with pytest.raises(ValueError, match="shape|not"):
        write_frame_store(store, pictures(3, 64, 64))
    assert list(tmp_path.iterdir()) == []


MEMORY = """
import sys, psutil
from pathlib import Path
from megasam_server.media.open_plate import open_plate
from megasam_server.media.decode import decode
class Peak:
    value = 0
    def update(self, *_):
        self.value = max(self.value, psutil.Process().memory_info().rss)
    def preview(self, *_): ...
peak = Peak()
decode(open_plate(Path(sys.argv[1])), Path(sys.argv[2]), 640, peak)
print(peak.value)
"""


def test_memory_does_not_grow_with_the_clip(tmp_path):
    peaks = {}
    for count in (60, 240):
        path = encode_movie(
            tmp_path / f"{count}.mp4",
            (picture(i % 7, 640, 360) for i in range(count)),
            codec_options={"preset": "ultrafast"},
        )
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(path), str(tmp_path / "frames.raw")],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        peaks[count] = int(done.stdout)
    assert peaks[240] < 1.3 * peaks[60], peaks


def blob(index: int, width: int = 128, height: int = 96, moves: int = 3) -> np.ndarray:
    """Bool [H,W]: a disc that wanders."""
    y, x = np.mgrid[:height, :width]
    return (x - 30 - moves * index) ** 2 + (y - 50) ** 2 < 15**2


def as_rgb(mask: np.ndarray) -> np.ndarray:
    return np.repeat((mask * np.uint8(255))[..., None], 3, axis=2)


def write_masks(folder: Path, numbers, width: int = 128, height: int = 96) -> Path:
    for index, number in enumerate(numbers):
        write_still(folder / f"mask.{number:04d}.png", as_rgb(blob(index, width, height))[..., :1])
    return folder


@pytest.fixture
def shot(tmp_path):
    """A plate 1001-1006, decoded, and a function that decodes masks for it."""
    plate = open_plate(write_pngs(tmp_path / "plate", range(1001, 1007)))
    frames = decode(plate, tmp_path / "frames.raw", 128, SILENT)

    def masks_from(path: Path) -> FrameStore:
        return decode_masks(path, plate.info, frames, tmp_path / "masks.raw", SILENT)

    return masks_from


def assert_blobs(store: FrameStore, first: int = 0) -> None:
    assert store.channels == 1
    for index in range(store.num_frames):
        assert np.array_equal(store.frame(index), blob(first + index).astype(np.uint8))


def test_masks_by_frame_number(shot, tmp_path):
    store = shot(write_masks(tmp_path / "masks", range(999, 1011)))
    assert store.num_frames == 6 and store.read(0, 6).shape == (6, 96, 128)
    assert_blobs(store, first=2)


def test_masks_by_position(shot, tmp_path):
    assert_blobs(shot(write_masks(tmp_path / "masks", range(1, 7))))


def test_mask_movie_for_a_sequence(shot, tmp_path):
    path = encode_movie(
        tmp_path / "masks.mkv",
        (as_rgb(blob(i)) for i in range(6)),
        codec="ffv1",
        pixel_format="bgr0",
    )
    assert_blobs(shot(path))


def test_mask_movie_with_codec_noise(shot, tmp_path):
    write_movie(tmp_path / "masks.mp4", (as_rgb(blob(i)) for i in range(6)), 24, crf=23)
    store = shot(tmp_path / "masks.mp4")
    for index in range(6):
        assert np.count_nonzero(store.frame(index) != blob(index)) < 30


def test_zero_based_masks_for_a_movie(tmp_path):
    write_movie(tmp_path / "plate.mp4", pictures(6), 24)
    frames, info = decoded(tmp_path / "plate.mp4", tmp_path)
    folder = write_masks(tmp_path / "masks", range(6))
    assert_blobs(decode_masks(folder, info, frames, tmp_path / "masks.raw", SILENT))


def test_masks_of_a_range_of_a_movie_go_by_number(tmp_path):
    write_movie(tmp_path / "plate.mp4", pictures(8), 24)
    plate = open_plate(tmp_path / "plate.mp4", 3, 6)
    frames = decode(plate, tmp_path / "frames.raw", 512, SILENT)
    folder = write_masks(tmp_path / "masks", range(1, 9))
    assert_blobs(decode_masks(folder, plate.info, frames, tmp_path / "m.raw", SILENT), first=2)


def test_too_few_masks_names_the_missing_frames(shot, tmp_path):
    error = error_of(shot, write_masks(tmp_path / "masks", range(1001, 1005)))
    assert error.code == "mask_frames_missing" and "1005-1006" in error.message
    folder = write_masks(tmp_path / "gap", (1001, 1002, 1004, 1005, 1006, 1007))
    error = error_of(shot, folder)
    assert error.code == "mask_frames_missing" and "1003" in error.message
    assert not (tmp_path / "masks.raw").exists()


def test_mask_count_without_common_numbers(shot, tmp_path):
    error = error_of(shot, write_masks(tmp_path / "masks", range(1, 5)))
    assert error.code == "mask_count"
    assert "4 masks" in error.message and "6 frames" in error.message


def test_mask_of_another_size(shot, tmp_path):
    error = error_of(shot, write_masks(tmp_path / "masks", range(1001, 1007), 130, 96))
    assert error.code == "mask_size"
    assert "130 x 96" in error.message and "128 x 96" in error.message


def test_masks_that_are_missing_or_no_picture(shot, tmp_path):
    assert error_of(shot, tmp_path / "nothing").code == "plate_not_found"
    (tmp_path / "notes.txt").write_text("x")
    assert error_of(shot, tmp_path / "notes.txt").code == "unsupported_format"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_mask_in_colour_or_in_alpha(dtype):
    shape = blob(0)
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max

    def rgba(colour, alpha):
        layers = np.zeros((96, 128, 4), np.float64)
        layers[..., :3] = np.asarray(colour, np.float64)[..., None]
        layers[..., 3] = alpha
        return (layers * white).astype(dtype)

    flat = np.ones(shape.shape)
    nothing, everything = np.zeros_like(shape), np.ones_like(shape)
    cases = [
        (rgba(shape, flat), shape),
        (rgba(shape, shape), shape),
        (rgba(shape, 0), shape),
        (rgba(0 * flat, shape), shape),
        (rgba(flat, shape), shape),
        (rgba(0 * flat, flat), nothing),
        (rgba(0 * flat, 0), nothing),
        (rgba(flat, 0), nothing),
        (rgba(flat, flat), everything),
    ]
    for values, expected in cases:
        assert np.array_equal(mask_of_picture(values), expected)
    assert np.array_equal(mask_of_picture(rgba(shape * 0.6, 1)[..., :3]), shape)
    assert not mask_of_picture(rgba(shape * 0.4, 1)[..., :3]).any()


@given(
    x=st.integers(0, 319),
    y=st.integers(0, 179),
    scale=st.fractions(Fraction(1, 4), Fraction(99, 100)),
)
@settings(max_examples=60, deadline=None)
def test_no_masked_pixel_leaks_at_lower_resolution(x, y, scale):
    """Wherever a bright pixel shows up in the reduced frame, the reduced mask is set."""
    width, height = max(8, round(320 * scale)), max(8, round(180 * scale))
    mask = np.zeros((180, 320), bool)
    mask[y, x] = True
    reduced_frame = cv2.resize(
        mask.astype(np.float32) * 255, (width, height), interpolation=cv2.INTER_AREA
    )
    reduced = reduce_mask(mask, width, height)
    assert reduced.dtype == np.uint8 and reduced.max() == 1
    assert np.all(reduced[reduced_frame > 1e-3] == 1)
    assert reduced.sum() <= 4
