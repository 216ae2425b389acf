"""Depth alignment and the tracker's frames against MegaSaM's demo (G15, G16)."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_server.geometry.nearest_resize import resized_nearest
from megasam_server.metric_depth.alignment import (
    align_clip,
    focal_from_fov,
    reference_frame_fit,
)
from megasam_server.tracking.dense_slam.frame_size import FrameSize

SKY_FRAME = 2
"""Of G15: more than half of it is sky, which the demo's rule is meant to leave out."""


@pytest.fixture
def clip(golden):
    vectors = golden("G15_alignment")
    height, width = vectors["metric_depth"].shape[1:]
    vectors["small"] = [resized_nearest(d, width, height) for d in vectors["da_disp"]]
    return vectors


def metric(clip):
    return dict(enumerate(clip["metric_depth"]))


def test_golden_scale_and_shift_of_each_frame(clip):
    fits = [
        reference_frame_fit(d, z)
        for d, z in zip(clip["da_disp"], clip["metric_depth"], strict=True)
    ]
    np.testing.assert_allclose(fits, np.stack([clip["scales"], clip["shifts"]], 1), rtol=1e-5)


def test_golden_alignment_of_the_clip(clip):
    aligned = align_clip(clip["small"], metric(clip), reference_quirks=True)
    assert aligned.scale == pytest.approx(clip["scales"][clip["med_idx"]], rel=1e-6)
    got = (aligned.scale, aligned.shift, aligned.norm)
    np.testing.assert_allclose(got, clip["aligns"], rtol=1e-5)


def test_golden_frames_of_the_tracker(clip):
    aligned = align_clip(clip["small"], metric(clip), reference_quirks=True)
    size = FrameSize.of_plate(120, 90)
    for i, (image, depth) in enumerate(zip(clip["track_image"], clip["track_depth"], strict=True)):
        got = size.depth(aligned.tracker_depth(clip["small"][i]))
        np.testing.assert_allclose(got, depth, rtol=1e-5)
        # OpenCV's releases differ in the rounding of INTER_AREA.
        difference = size.image(clip["images_bgr"][i]).transpose(2, 0, 1).astype(int) - image
        assert np.abs(difference).max() <= 1


def test_golden_intrinsics(clip):
    focal = focal_from_fov(clip["fov"], 120)
    assert focal == pytest.approx(clip["K"][0, 0], rel=1e-6)
    got = FrameSize.of_plate(120, 90).intrinsics(np.array([focal, focal, 60, 45]))
    np.testing.assert_allclose(got, clip["track_intrinsics"], rtol=1e-6)


def test_golden_sizes_of_the_tracker(golden):
    for rule in golden("G16_resize_rules"):
        size = FrameSize.of_plate(rule["w"], rule["h"])
        assert [*size.resized, *size.cropped] == rule["tracker_w1h1_crop"]


def test_the_sky_does_not_upset_the_fixed_rule(clip):
    """Only frames where the demo's formula holds say what is right; the sky frame must agree."""
    right = np.delete(clip["scales"], SKY_FRAME)
    assert clip["scales"][SKY_FRAME] < 0, "the demo's defect"
    alone = align_clip(clip["small"], {SKY_FRAME: clip["metric_depth"][SKY_FRAME]})
    assert alone.scale == pytest.approx(np.median(right), rel=0.03)
    together = align_clip(clip["small"], metric(clip))
    assert together.scale == pytest.approx(np.median(right), rel=0.01)
