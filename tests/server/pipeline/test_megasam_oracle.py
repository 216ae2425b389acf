"""What the whole engine recovers when its networks know the truth, shot by shot. Minutes."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from megasam_server.geometry import se3  # noqa: E402
from megasam_server.pipeline import megasam_engine  # noqa: E402
from megasam_server.tracking.dense_slam import joined_windows  # noqa: E402
from megasam_server.tracking.dense_slam.options import TrackerOptions  # noqa: E402
from megasam_server.tracking.dense_slam.tracker import Tracker  # noqa: E402

from tests.server.pipeline import known_clips  # noqa: E402
from tests.server.pipeline.known_clips import solve  # noqa: E402
from tests.server.pipeline.network_doubles import (  # noqa: E402
    DoubleNetworks,
    KnownClip,
    all_doubles,
)

NOISE = 0.015
"""Of the flow, cells: 0.12 pixels of a picture 208 pixels wide."""

ROTATION_DEG = 0.1
"""A sixth of a pixel of such a picture: what its corners are good for. The doubles alone know it to half of that."""

NO_DEPTH = {"mono_depth": False, "metric_depth": False}


@pytest.mark.slow
@pytest.mark.parametrize("with_depth", [True, False], ids=["with depth", "without depth"])
@pytest.mark.parametrize(("take", "count"), [("walk", 40), ("orbit", 40), ("big_mover", 24)])
def test_shots_with_parallax(take, count, with_depth, tmp_path, monkeypatch):
    known = KnownClip.of(getattr(known_clips, f"{take}_take")(count))
    networks = DoubleNetworks(all_doubles(known, NOISE, **({} if with_depth else NO_DEPTH)))
    solved = solve(known, networks, tmp_path / "a", monkeypatch, cvd_iterations=40)
    print(take, count, known.clip.moving.mean(), solved.result["status"], solved.errors)
    assert solved.errors.rotation_rms_deg < ROTATION_DEG
    assert solved.errors.ate_percent < 0.3
    assert solved.errors.focal_percent < 1
    assert solved.errors.depth_percent < 3
    if known.clip.moving.any():
        assert solved.errors.mask_iou > 0.6
    assert solved.quality["usable"]


@pytest.mark.slow
def test_tiny_baseline_rests_on_the_prior_and_nobody_calls_it_wide(tmp_path, monkeypatch):
    known = KnownClip.of(known_clips.tiny_baseline_take(24))
    networks = DoubleNetworks(all_doubles(known, NOISE))
    solved = solve(known, networks, tmp_path / "a", monkeypatch, cvd_iterations=20)
    print(solved.result["status"], solved.quality["reasons"], solved.errors)
    assert solved.errors.rotation_rms_deg < 0.2
    assert solved.errors.depth_percent < 8
    assert solved.quality["baseline_to_depth"] < 0.05


def use_options(monkeypatch, **changes) -> None:
    """The engine tracks with these options, and as they are."""

    class Changed(TrackerOptions):
        def __init__(self, **values):
            super().__init__(**values | changes)

    monkeypatch.setattr(megasam_engine, "TrackerOptions", Changed)
    monkeypatch.setattr(TrackerOptions, "with_global_chunk", lambda options, chunk: options)


@pytest.mark.slow
def test_a_long_clip_with_a_small_buffer(tmp_path, monkeypatch):
    """Keyframes, six times as many as fit, leave for the host and come back; all frames are adjusted in windows."""
    use_options(monkeypatch, max_keyframes=8, filter_threshold=0.6, keyframe_threshold=0.5)
    known = KnownClip.of(known_clips.corridor_take(300))
    networks = DoubleNetworks(all_doubles(known, NOISE))
    solved = solve(known, networks, tmp_path / "a", monkeypatch, run_cvd=False)
    print(solved.result["status"], solved.result["timings"], solved.errors)
    assert solved.errors.rotation_rms_deg < ROTATION_DEG
    assert solved.errors.ate_percent < 0.3
    assert solved.errors.focal_percent < 1


@pytest.mark.slow
def test_a_clip_tracked_in_windows_that_are_joined(tmp_path, monkeypatch):
    use_options(monkeypatch, tracked_together=60, tracked_overlap=15)
    known = KnownClip.of(known_clips.corridor_take(150))
    networks = DoubleNetworks(all_doubles(known, NOISE))
    solved = solve(known, networks, tmp_path / "a", monkeypatch, run_cvd=False)
    joins = solved.quality["window_joins"]
    print(solved.result["status"], solved.errors, joins)
    assert solved.errors.rotation_rms_deg < ROTATION_DEG
    assert solved.errors.ate_percent < 0.3
    assert solved.errors.focal_percent < 1
    assert [join["first_frame"] for join in joins] == [1046, 1091]
    assert [join["last_frame"] for join in joins] == [1060, 1105]
    # Corners of so small a plate are no better; the joins are no reason to doubt.
    assert all("Reprojection error" in reason for reason in solved.quality["reasons"])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["rotation", "scale"])
def test_a_window_that_went_astray_is_not_called_good(fault, tmp_path, monkeypatch):
    """The second window turns by degrees, or its path has another scale than its depth."""
    use_options(monkeypatch, tracked_together=24, tracked_overlap=8)

    class Astray(Tracker):
        runs = 0

        def run(self):
            result = super().run()
            Astray.runs += 1
            if Astray.runs == 1:
                return result
            poses = result.cam_from_world.clone()
            if fault == "rotation":
                twists = torch.zeros(len(poses), 6)
                twists[:, 4] = torch.linspace(0, 0.2, len(poses))
                poses = se3.retract(poses, twists)
            else:
                poses[:, :3] *= 1.3
            return replace(result, cam_from_world=poses)

    monkeypatch.setattr(joined_windows, "Tracker", Astray)
    known = KnownClip.of(known_clips.walk_take(40))
    networks = DoubleNetworks(all_doubles(known, NOISE))
    solved = solve(known, networks, tmp_path / "a", monkeypatch, run_cvd=False)
    print(solved.quality["reasons"], solved.quality["window_joins"])
    assert Astray.runs == 2
    assert solved.quality["verdict"] == "check"
    assert any("1017-1024 does not fit" in reason for reason in solved.quality["reasons"])
