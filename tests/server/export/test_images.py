"""Depth, previews and masks, read back by other libraries than wrote them."""

from __future__ import annotations

import cv2
import numpy as np
import OpenImageIO as oiio
import pytest
from megasam_server.export.depth_images import (
    depth_preview,
    write_depth_image,
    write_depth_preview,
)
from megasam_server.export.mask_images import write_mask_image
from PIL import Image


def test_depth_exr_is_half_float_z(tmp_path, shot):
    path = tmp_path / "depth.1001.exr"
    write_depth_image(path, shot.depth[0], "metres")
    source = oiio.ImageInput.open(str(path))
    spec = source.spec()
    assert (spec.channelnames, str(spec.format)) == (("Z",), "half")
    np.testing.assert_array_equal(source.read_image()[:, :, 0], shot.depth[0])
    source.close()


def test_depth_beyond_half_float_is_clamped_not_infinite(tmp_path):
    write_depth_image(tmp_path / "far.exr", np.full((3, 5), 1e6, np.float32), "metres")
    assert oiio.ImageBuf(str(tmp_path / "far.exr")).getpixel(0, 0)[0] == 65504


def test_depth_exr_reports_why_it_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_depth_image(tmp_path / "nowhere" / "a.exr", np.ones((3, 5), np.float32), "metres")


def test_preview_maps_fixed_near_and_far_in_inverse_depth(tmp_path):
    near, far = 2.0, 8.0
    middle = 1 / ((1 / near + 1 / far) / 2)
    depth = np.array([[near, middle, far], [1.0, 100.0, np.nan], [0.0, -1.0, np.inf]], np.float16)
    expected = [[255, 128, 0], [255, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(depth_preview(depth, (near, far)), expected, atol=1)

    write_depth_preview(tmp_path / "preview.png", np.ones((500, 2000), np.float16), (near, far))
    with Image.open(tmp_path / "preview.png") as preview:
        assert (preview.mode, preview.size) == ("L", (960, 240))


def test_mask_is_0_or_255_at_plate_resolution(tmp_path, shot):
    path = tmp_path / "mask.1001.png"
    plate = shot.plate
    write_mask_image(path, shot.motion_masks[0], plate.width, plate.height)
    with Image.open(path) as image:
        mask = np.asarray(image)
    assert mask.shape == (plate.height, plate.width)
    assert set(np.unique(mask)) == {0, 255}
    small = cv2.resize(mask, shot.motion_masks[0].shape[::-1], interpolation=cv2.INTER_NEAREST)
    assert np.mean((small > 0) == (shot.motion_masks[0] > 0)) > 0.98
