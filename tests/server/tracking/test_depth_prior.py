"""The depth prior on the tracker's grid, and first disparities from it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.tracking.dense_slam.depth_prior import (  # noqa: E402
    disparities_between,
    prior_from_disparity,
)
from megasam_server.tracking.dense_slam.feature_bank import FeatureBank  # noqa: E402
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore  # noqa: E402
from megasam_server.tracking.dense_slam.options import TrackerOptions  # noqa: E402

CPU = torch.device("cpu")
IDENTITY = torch.tensor([0.0, 0, 0, 0, 0, 0, 1])


def test_a_hole_does_not_count_in_the_mean():
    depth = torch.full((16, 24), 4.0)
    depth[:8, :4] = 0.0  # half of the first cell
    depth[8:, 16:] = 0.0  # all of the last
    disparity = torch.where(depth > 0, 1 / depth, 0.0)
    expected = torch.tensor([[0.25, 0.25, 0.25], [0.25, 0.25, 0.0]])
    torch.testing.assert_close(prior_from_disparity(disparity), expected)


def test_a_cell_mostly_without_disparity_has_no_prior():
    disparity = torch.zeros(2, 8, 16)
    disparity[1, :3, :8] = 1.0
    assert (prior_from_disparity(disparity) == 0).all()


def store_with(disps: list[float], priors: list[float], times: list[int]) -> KeyframeStore:
    options = TrackerOptions()
    bank = FeatureBank([], None, CPU, torch.float32, 4, 4)
    store = KeyframeStore(2, 3, torch.ones(4), bank, CPU, options)
    for disp, prior, time in zip(disps, priors, times, strict=True):
        store.append(time, IDENTITY, torch.tensor(disp), torch.full((2, 3), prior))
    return store


def test_frames_between_keyframes_take_over_their_corrections():
    store = store_with([0.2, 0.8], [0.1, 0.4], [0, 10])  # both twice the prior
    between = disparities_between(store, [0, 5, 10], torch.full((3, 2, 3), 0.3))
    torch.testing.assert_close(between, torch.full((3, 2, 3), 0.6))


def test_without_prior_they_take_over_the_disparities_themselves():
    for keyframe_priors in ([0.1, 0.0], [0.0, 0.0]):
        store = store_with([0.2, 0.8], keyframe_priors, [0, 10])
        between = disparities_between(store, [0, 5, 10], torch.zeros(3, 2, 3))
        torch.testing.assert_close(between[:, 0, 0], torch.tensor([0.2, 0.4, 0.8]))


def test_one_wild_pixel_of_a_keyframe_does_not_carry_over():
    store = store_with([0.2, 0.2], [0.1, 0.1], [0, 10])
    store.disps[:, 0, 0] = 9.0
    between = disparities_between(store, [5], torch.full((1, 2, 3), 0.1))
    assert float(between[0, 0, 0]) == pytest.approx(0.4)
    assert float(between[0, 1, 1]) == pytest.approx(0.2)
