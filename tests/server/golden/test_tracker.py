"""The tracker against the reference's: an oracle for a network (G18), and random weights (G11)."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.models.droid_net import DroidNet  # noqa: E402
from megasam_server.tracking.dense_slam.depth_prior import prior_from_depth  # noqa: E402
from megasam_server.tracking.dense_slam.frames import TrackingFrame  # noqa: E402
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore  # noqa: E402
from megasam_server.tracking.dense_slam.options import TrackerOptions  # noqa: E402
from megasam_server.tracking.dense_slam.tracker import Tracker  # noqa: E402

from tests.server.golden.weight_rule import fill_by_rule  # noqa: E402
from tests.server.tracking.flow_oracle import FRAME_NUMBERS, FlowOracle, NumberedFrames  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def ba_calls(monkeypatch):
    """Every bundle adjustment as the golden files list them; equal calls in a row counted in ``repeat``."""
    calls = []
    adjust = KeyframeStore.bundle_adjust

    def record(store, target, weight, eta, ii, jj, first_free, end, bundle, use_prior=True, **kw):
        call = {
            "ii": ii.tolist(),
            "jj": jj.tolist(),
            "t0": first_free,
            "t1": end,
            "lm": bundle.lm,
            "ep": bundle.ep,
            "use_mono": use_prior,
            "motion_only": bundle.motion_only,
            "opt_intr": bundle.optimise_focal,
            "alpha": bundle.alpha,
        }
        if calls and {**calls[-1], "repeat": 0} == {**call, "repeat": 0}:
            calls[-1]["repeat"] += 1
        else:
            calls.append({**call, "repeat": 1})
        adjust(store, target, weight, eta, ii, jj, first_free, end, bundle, use_prior, **kw)

    monkeypatch.setattr(KeyframeStore, "bundle_adjust", record)
    return calls


def expected_calls(listed: list[dict]) -> list[dict]:
    """The golden listing, with the reference's defaults filled in."""
    return [
        {
            **{key: call[key] for key in ("ii", "jj", "t0", "lm", "ep", "use_mono", "repeat")},
            "t1": call["t1"] or max(call["ii"] + call["jj"]) + 1,
            "motion_only": call["motion_only"],
            "opt_intr": call.get("opt_intr", False),
            "alpha": call.get("alpha", 0.05),
        }
        for call in listed
    ]


def follow(tracker: Tracker, count: int) -> list[int]:
    """Number of keyframes after each frame, and after the last was looked at again."""
    counts = []
    for number in range(count):
        tracker.follow(number)
        counts.append(len(tracker.store))
    tracker.finish_following()
    return [*counts, len(tracker.store)]


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


def largest(found: torch.Tensor, expected: np.ndarray) -> float:
    return float((found - as_tensor(expected)).abs().max())


def as_reference_depth(disparities: torch.Tensor) -> torch.Tensor:
    """[N, h, w] depth as the golden files hold it: every 8th pixel of the disparity enlarged 8 times."""
    large = torch.nn.functional.interpolate(disparities[:, None], scale_factor=8, mode="bilinear")
    return 1 / large[:, 0, ::8, ::8]


@pytest.fixture
def oracle_tracker(golden):
    true = golden("G18_oracle_tracker_demo")
    pattern = as_tensor(true["refined_pattern"])
    oracle = FlowOracle(
        as_tensor(true["gt_poses"]),
        as_tensor(true["gt_disps8"]),
        as_tensor(true["K_gt"]) / 8,
        static=lambda i, j, coords: pattern[i, j],
    )
    frames = NumberedFrames(34, 128, 160, prior_from_depth(as_tensor(true["depth"])))
    options = TrackerOptions(reference_behaviour=True)
    return Tracker(frames, as_tensor(true["K_input"]), oracle, options, CPU, FRAME_NUMBERS), true


def test_golden_oracle_tracker_keyframes_and_edges(oracle_tracker, golden, ba_calls):
    tracker, true = oracle_tracker
    counts = follow(tracker, 34)
    assert counts == true["demo_kf_count"].tolist()
    assert tracker.store.frame_numbers == true["demo_kf_content_frame"].tolist()
    assert tracker.store.times == true["demo_kf_tstamp"].tolist()
    print("front", largest(tracker.store.poses, true["demo_front_poses"]))
    print("front disps", largest(tracker.store.disps, true["demo_front_disps"]))
    tracker.adjust_keyframes()
    print("obs", tracker._observability, true["demo_median_hessian"], true["demo_median_calib"])
    print("global", largest(tracker.store.poses, true["demo_kf_poses_after_global"]))
    print("global disps", largest(tracker.store.disps, true["demo_kf_disps_after_global"]))
    print("K", largest(tracker.store.intrinsics, true["demo_K8_after_global"]))
    tracker.place_all_frames()
    print("fill", largest(tracker.all_frames.poses, true["demo_pose_fill"]))
    print("fill disps", largest(tracker.all_frames.disps, true["demo_disps_after_fill"]))
    tracker.adjust_all_frames()
    result = tracker.result()
    print("traj", largest(result.cam_from_world, true["demo_traj"]))
    print("depth", largest(as_reference_depth(result.disparities), true["demo_depth_8"]))
    print("prob", largest(result.static_probability, true["demo_motion_prob"]))
    print("K", largest(result.intrinsics, true["demo_intrinsics_full"]))
    for found, expected in zip(
        ba_calls, expected_calls(golden("G18_oracle_demo_ba_calls")), strict=True
    ):
        assert found == expected


def random_weights_tracker(true: dict) -> Tracker:
    images = torch.from_numpy(true["images_bgr"]).permute(0, 3, 1, 2)
    priors = prior_from_depth(as_tensor(true["sensor_depth"]))
    frames = [TrackingFrame(image, prior) for image, prior in zip(images, priors, strict=True)]
    options = TrackerOptions(reference_behaviour=True, filter_threshold=0.0)
    network = fill_by_rule(DroidNet())
    return Tracker(frames, torch.tensor([130.0, 130, 80, 64]), network, options, CPU)


@pytest.mark.slow
def test_golden_random_weights(golden, ba_calls):
    true = golden("G11_tracker_trace")
    tracker = random_weights_tracker(true)
    counts = follow(tracker, 12)
    print(counts, true["kf_count"].tolist())
    assert tracker.store.times == true["kf_tstamp"].tolist()
    print("front", largest(tracker.store.poses, true["front_poses"]))
    print("front disps", largest(tracker.store.disps, true["front_disps"]))
    tracker.adjust_keyframes()
    tracker.place_all_frames()
    tracker.adjust_all_frames()
    result = tracker.result()
    print("traj", largest(result.cam_from_world, true["traj"]))
    print("depth", largest(as_reference_depth(result.disparities), true["depth"]))
    print("prob", largest(result.static_probability, true["motion_prob"]))
    print("K", result.intrinsics, true["intr"])
    for found, expected in zip(
        ba_calls, expected_calls(golden("G11_tracker_ba_calls")), strict=True
    ):
        assert found == expected
