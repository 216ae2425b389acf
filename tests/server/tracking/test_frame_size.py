"""The size at which the dense tracker sees a plate."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_server.tracking.dense_slam.frame_size import FrameSize
from megasam_shared.errors import MegasamError


@pytest.mark.parametrize("resolution", [240, 384, 480])
def test_the_preset_is_the_height_of_a_4_to_3_plate(resolution):
    size = FrameSize.of_plate(1440, 1080, resolution)
    assert size.cropped == (resolution * 4 // 3, resolution)


@pytest.mark.parametrize("plate", [(1920, 1080), (1998, 1080), (1080, 1920), (501, 333)])
def test_area_is_kept_and_sides_are_multiples_of_8(plate):
    size = FrameSize.of_plate(*plate)
    width, height = size.cropped
    assert width % 8 == height % 8 == 0
    assert 0.93 < width * height / (384 * 512) <= 1
    frame = np.zeros((plate[1], plate[0], 3), np.uint8)
    assert size.image(frame).shape == (height, width, 3)
    assert size.depth(np.ones((36, 64), np.float32)).shape == (height, width)


def test_intrinsics_follow_the_picture():
    """A mark at a plate pixel is found where the scaled intrinsics put it."""
    size = FrameSize.of_plate(1920, 1080)
    plate = np.array([1500.0, 1500.0, 960.0, 540.0])
    small = size.intrinsics(plate)
    frame = np.zeros((1080, 1920, 3), np.uint8)
    frame[700:720, 1200:1220] = 255  # its centre is at 1210, 710, corners at integers
    ray = (np.array([1210, 710]) - plate[2:]) / plate[:2]
    x, y = ray * small[:2] + small[2:]
    seen = size.image(frame)[..., 0].astype(float)
    rows, columns = np.indices(seen.shape) + 0.5
    centre = (columns * seen).sum() / seen.sum(), (rows * seen).sum() / seen.sum()
    assert centre == pytest.approx((x, y), abs=0.05)


def test_a_plate_like_a_ribbon_is_an_error():
    with pytest.raises(MegasamError) as caught:
        FrameSize.of_plate(4000, 200)
    assert caught.value.code == "frame_too_narrow"


@pytest.mark.parametrize(
    "plate", [(1920, 1080), (1280, 720), (1080, 1920), (2048, 858), (640, 480)]
)
def test_nothing_is_cropped_from_the_whole_plate_and_the_area_stays(plate):
    size = FrameSize.of_whole_plate(*plate, resolution=384)
    assert size.resized == size.cropped
    assert all(side % 8 == 0 for side in size.cropped)
    assert size.cropped[0] * size.cropped[1] == pytest.approx(384 * 512, rel=0.03)
    across, down = (side / full for side, full in zip(size.cropped, plate, strict=True))
    assert across / down == pytest.approx(1, abs=0.025)
    with pytest.raises(MegasamError) as error:
        FrameSize.of_whole_plate(4000, 200, resolution=160)
    assert error.value.code == "frame_too_narrow"
