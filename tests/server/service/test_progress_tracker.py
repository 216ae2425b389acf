"""One fraction and one estimate out of what stages report."""

from __future__ import annotations

import pytest
from megasam_server.service.progress_tracker import ProgressTracker
from megasam_shared.stages import STAGES

WEIGHT = {stage.key: stage.weight / sum(s.weight for s in STAGES) for stage in STAGES}


def test_stages_count_by_weight_and_skipped_ones_as_done():
    tracker = ProgressTracker("j", 100.0)
    tracker.update("plate", 10, 10, "")
    tracker.skip("metric_depth")
    tracker.update("tracking", 1, 4, "frame 1")
    message = tracker.message(110.0)
    expected = WEIGHT["plate"] + WEIGHT["metric_depth"] + WEIGHT["tracking"] / 4
    assert message.fraction == pytest.approx(expected)
    assert message.eta == pytest.approx(10 * (1 - expected) / expected)
    assert (message.stage, message.done, message.total) == ("tracking", 1, 4)
    assert message.skipped == ["metric_depth"]


def test_fraction_never_goes_back_and_odd_reports_do_no_harm():
    tracker = ProgressTracker("j", 0.0)
    fractions = []
    for done, total in [(5, 10), (1, 10), (20, 10), (1, 0), (3, 10)]:
        tracker.update("flow", done, total, "")
        fractions.append(tracker.message(1.0).fraction)
    tracker.update("no such stage", 1, 2, "")
    fractions.append(tracker.message(2.0).fraction)
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(WEIGHT["flow"])


def test_messages_are_throttled_and_repeated():
    tracker = ProgressTracker("j", 0.0)
    sent = 0
    for step in range(1000):
        now = step / 1000
        tracker.update("flow", step, 1000, "")
        if tracker.is_due(now):
            tracker.message(now)
            sent += 1
    assert 9 <= sent <= 11
    assert not tracker.is_due(now)
    tracker.message(now)
    assert not tracker.is_due(now + 0.5) and tracker.is_due(now + 0.95)


def test_preview_goes_out_once():
    tracker = ProgressTracker("j", 0.0)
    tracker.preview(7, b"old")
    tracker.preview(8, b"jpeg")
    first, second = tracker.message(1.0), tracker.message(2.0)
    assert (first.preview_frame, first.preview) == (8, b"jpeg")
    assert second.preview == b""
