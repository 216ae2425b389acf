"""Depth alignment on clips whose scale is known."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_server.metric_depth.alignment import align_clip, relative_alignment, robust_line
from megasam_shared.errors import MegasamError

SCALE, SHIFT = 0.08, 0.02


def clip(frames=3, sky=0.0, height=60, width=80, seed=0):
    """Disparities of a rough ground plane, its upper ``sky`` share at infinity, and true depths."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 8, height)[:, None] + rng.uniform(0, 1, (frames, height, width))
    rows[:, : int(sky * height)] = 0
    disparity = rows.astype(np.float32)
    return disparity, (1 / (SCALE * disparity + SHIFT)).astype(np.float32)


@pytest.mark.parametrize("sky", [0.0, 0.3, 0.7])
def test_scale_and_shift_are_found(sky):
    disparity, depth = clip(sky=sky)
    depth[disparity == 0] = 1.0  # the metric network holds the sky for a near wall
    aligned = align_clip(disparity, dict(enumerate(depth)))
    assert aligned.scale == pytest.approx(SCALE, rel=1e-4)
    assert aligned.shift == pytest.approx(SHIFT, rel=1e-4)


def test_wrong_pixels_and_noise_do_little():
    disparity, depth = clip(frames=4)
    rng = np.random.default_rng(1)
    depth *= rng.lognormal(0, 0.02, depth.shape).astype(np.float32)
    wrong = rng.random(depth.shape) < 0.2
    depth[wrong] = rng.uniform(0.3, 3, wrong.sum())
    aligned = align_clip(disparity, dict(enumerate(depth)))
    assert aligned.scale == pytest.approx(SCALE, rel=0.03)


def test_some_frames_with_metric_depth_are_enough_and_unknown_depth_is_left_out():
    disparity, depth = clip(frames=6)
    depth[4, ::2] = np.nan
    depth[4, 1::7] = 0
    aligned = align_clip(disparity, {4: depth[4]})
    assert aligned.scale == pytest.approx(SCALE, rel=1e-3)


def test_metric_depth_may_have_another_size():
    disparity, depth = clip(height=120, width=160)
    aligned = align_clip(disparity, {0: depth[0, ::2, ::2]})
    assert aligned.scale == pytest.approx(SCALE, rel=0.05)


def test_metres_come_back_from_the_tracker_unit():
    disparity, depth = clip()
    aligned = align_clip(disparity, dict(enumerate(depth)))
    tracked = aligned.tracker_depth(disparity[0])
    np.testing.assert_allclose(tracked * aligned.metres_per_unit, depth[0], rtol=1e-3)
    assert np.percentile(1 / tracked, 98) == pytest.approx(2, rel=0.02)


def test_impossible_disparity_is_unknown_depth():
    disparity, depth = clip()
    aligned = align_clip(disparity, {0: depth[0]})
    behind = -2 * aligned.shift / aligned.scale
    at_infinity = -aligned.shift / aligned.scale
    got = aligned.tracker_depth(np.array([behind, at_infinity, 1e9, 5.0]))
    assert got[0] == 0 and got[1] == 1e4 and got[2] == 0
    assert got[3] == pytest.approx(aligned.norm / (5 * SCALE + SHIFT), rel=1e-3)


def test_depths_that_contradict_each_other_are_an_error():
    disparity, depth = clip()
    with pytest.raises(MegasamError) as caught:
        align_clip(disparity, {0: 1 / depth[0]})
    assert caught.value.code == "depth_alignment_failed"


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_flat_clip_is_an_error(value):
    disparity = np.full((2, 30, 40), value, np.float32)
    with pytest.raises(MegasamError) as caught:
        align_clip(disparity, {0: np.ones((30, 40), np.float32)})
    assert caught.value.code == "depth_alignment_failed"


def test_without_metric_depth_lengths_have_no_unit():
    disparity, _ = clip()
    aligned = relative_alignment(disparity)
    assert aligned.metres_per_unit is None
    assert np.percentile(1 / aligned.tracker_depth(disparity + 1e-3), 98) == pytest.approx(2, 0.01)
    with pytest.raises(MegasamError):
        relative_alignment(np.zeros((2, 5, 5), np.float32))


def test_a_line_through_exact_points_is_exact():
    x = np.array([0.0, 1, 1, 1, 1, 2, 3])
    assert robust_line(x, 3 * x - 1) == pytest.approx((3, -1), abs=1e-12)
