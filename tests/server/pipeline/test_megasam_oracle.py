"""What the whole engine recovers when its networks know the truth, shot by shot. Minutes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.pipeline import megasam_engine  # noqa: E402
from megasam_server.tracking.dense_slam.options import TrackerOptions  # noqa: E402

from tests.server.pipeline import known_clips  # noqa: E402
from tests.server.pipeline.known_clips import solve  # noqa: E402
from tests.server.pipeline.network_doubles import (  # noqa: E402
    DoubleNetworks,
    KnownClip,
    all_doubles,
)

NOISE = 0.015
"""Of the flow, cells: 0.12 pixels of a picture 208 pixels wide."""

NO_DEPTH = {"mono_depth": False, "metric_depth": False}


@pytest.mark.slow
@pytest.mark.parametrize("with_depth", [True, False], ids=["with depth", "without depth"])
@pytest.mark.parametrize(("take", "count"), [("walk", 40), ("orbit", 40), ("big_mover", 24)])
def test_shots_with_parallax(take, count, with_depth, tmp_path, monkeypatch):
    known = KnownClip.of(getattr(known_clips, f"{take}_take")(count))
    networks = DoubleNetworks(all_doubles(known, NOISE, **({} if with_depth else NO_DEPTH)))
    solved = solve(known, networks, tmp_path / "a", monkeypatch, cvd_iterations=40)
    print(take, count, known.clip.moving.mean(), solved.result["status"], solved.errors)
    assert solved.errors.rotation_rms_deg < 0.05
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


@pytest.mark.slow
def test_a_long_clip_with_a_small_buffer(tmp_path, monkeypatch):
    """Keyframes leave for the host and come back: the result is that of a large buffer."""

    class Small(TrackerOptions):
        def __init__(self, **values):
            super().__init__(**values | {"max_keyframes": 8})

    monkeypatch.setattr(megasam_engine, "TrackerOptions", Small)
    monkeypatch.setattr(TrackerOptions, "with_global_chunk", lambda options, chunk: options)
    known = KnownClip.of(known_clips.corridor_take(300))
    networks = DoubleNetworks(all_doubles(known, NOISE))
    solved = solve(known, networks, tmp_path / "a", monkeypatch, run_cvd=False)
    print(solved.result["status"], solved.result["timings"], solved.errors)
    assert solved.errors.rotation_rms_deg < 0.05
    assert solved.errors.ate_percent < 0.3
    assert solved.errors.focal_percent < 1
