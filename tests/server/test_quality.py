"""The verdict: a table of solutions, and what must be said about each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.media.plate import PlateInfo
from megasam_server.pipeline.quality import baseline_to_depth, judge
from megasam_server.tracking.solution import TrackingSolution
from megasam_shared.quality import FocalProfile, Notice, WindowJoin

NUM = 50
WIDTH, HEIGHT = 1920, 1080
NAN = float("nan")
CERTAIN = FocalProfile([1400, 1500, 1600], [0.5, 0.3, 0.5], (1480.0, 1520.0), True)
UNCERTAIN = FocalProfile([900, 1500, 2500], [0.3, 0.3, 0.3], (900.0, 2500.0), False)


def plate_of(width: int = WIDTH) -> PlateInfo:
    numbers, times = list(range(NUM)), [i / 24 for i in range(NUM)]
    return PlateInfo("shot", "movie", width, HEIGHT, 24.0, numbers, times, ["f"], [])


def solution(travel: float = 2.0, **changes) -> TrackingSolution:
    """A faultless solve of a camera that moves ``travel`` to the right, ten before the points."""
    poses = np.tile(np.eye(4), (NUM, 1, 1))
    poses[:, 0, 3] = np.linspace(0, travel, NUM)
    points = PointCloud(
        np.array([[0.0, 0, 10], [1, 1, 10], [2, 0, 10]]),
        np.zeros((3, 3), np.uint8),
        np.full(3, 0.3),
        np.tile([0, 1, 2], NUM),
        np.repeat(np.arange(NUM), 3),
        np.zeros((3 * NUM, 2)),
    )
    good = TrackingSolution(
        cameras=CameraPath(poses, Intrinsics.centred(WIDTH, HEIGHT, np.full(NUM, 1500.0))),
        points=points,
        model="perspective",
        focal_given=False,
        focal_profile=CERTAIN,
        rms_px=0.4,
        per_frame_rms_px=np.full(NUM, 0.4),
        per_frame_tracks=np.full(NUM, 150),
        explained_share=0.93,
        per_frame_explained=np.full(NUM, 0.93),
        coverage=0.7,
        median_track_length=25.0,
        interpolated=np.zeros(NUM, bool),
        warnings=[],
    )
    return replace(good, **changes)


def filled_in(share: float) -> np.ndarray:
    return np.arange(NUM) < share * NUM


def torn(first: int, last: int) -> np.ndarray:
    """Explained shares of a path that breaks from frame ``first`` to ``last``."""
    frame = np.arange(NUM)
    return np.where((frame >= first) & (frame <= last), 0.2, 0.93)


TABLE = [
    ("faultless", solution(), 0.1, "good", []),
    ("known focal length", solution(focal_given=True, focal_profile=None), 0.1, "good", []),
    ("tripod", solution(0.0, model="tripod"), 0.1, "good", []),
    ("high error", solution(rms_px=5.0), 0.1, "check", ["5.00 px"]),
    ("huge error", solution(rms_px=40.0), 0.1, "failed", ["do not fit"]),
    ("no error at all", solution(rms_px=NAN), 0.1, "failed", ["do not fit"]),
    ("infinite error", solution(rms_px=float("inf")), 0.1, "failed", ["do not fit"]),
    ("a corner of tracks", solution(coverage=0.15), 0.1, "check", ["15%"]),
    ("no tracks", solution(coverage=0.01), 0.1, "failed", ["could be tracked"]),
    ("half explained", solution(explained_share=0.45), 0.1, "check", ["45%", "mask"]),
    ("little explained", solution(explained_share=0.1), 0.1, "failed", ["mask"]),
    ("torn", solution(per_frame_explained=torn(12, 14)), 0.1, "check", ["3 frames (first: 12)"]),
    ("some frames", solution(interpolated=filled_in(0.1)), 0.1, "check", ["10%", "neighbours"]),
    ("most frames", solution(interpolated=filled_in(0.7)), 0.1, "failed", ["Most frames"]),
    ("focal length", solution(focal_profile=UNCERTAIN), 0.1, "check", ["900-2500 px", "focal"]),
    ("no parallax", solution(0.01), 0.1, "check", ["hardly moves"]),
    ("crowd", solution(), 0.7, "check", ["70%"]),
    (
        "two doubts",
        solution(0.01, focal_profile=UNCERTAIN),
        0.1,
        "check",
        ["focal", "hardly moves"],
    ),
    (
        "failed says only why it failed",
        solution(rms_px=NAN, coverage=0.01, focal_profile=UNCERTAIN),
        0.1,
        "failed",
        ["do not fit", "could be tracked"],
    ),
]


@pytest.mark.parametrize(
    ("solved", "moving", "verdict", "words"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_verdicts(solved, moving, verdict, words):
    quality = judge(solved, plate_of(), moving)
    assert quality.verdict == verdict
    assert quality.usable == (verdict != "failed")
    said = " ".join(quality.reasons)
    for word in words:
        assert word in said
    assert bool(quality.reasons) == (verdict != "good")


def test_errors_count_in_shares_of_the_picture():
    """Two pixels of 4K are little, of a thumbnail they are much."""
    assert judge(solution(rms_px=2.0), plate_of(4096), 0.0).verdict == "good"
    assert judge(solution(rms_px=2.0), plate_of(960), 0.0).verdict == "check"
    assert judge(solution(rms_px=2.0), plate_of(320), 0.0).verdict == "failed"


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([NAN, 0.0, 0.5, 3.0, 30.0]),
    st.sampled_from([0.0, 0.2, 0.8]),
    st.sampled_from([0.0, 0.4, 0.9]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([None, CERTAIN, UNCERTAIN]),
    st.sampled_from(["perspective", "tripod"]),
    st.sampled_from([0.0, 0.05, 3.0]),
    st.sampled_from([0.0, 0.9]),
)
def test_never_good_with_any_doubt(rms, coverage, explained, weak, profile, model, travel, moving):
    quality = judge(
        solution(
            travel,
            rms_px=rms,
            coverage=coverage,
            explained_share=explained,
            interpolated=filled_in(weak),
            focal_profile=profile,
            model=model,
        ),
        plate_of(),
        moving,
    )
    doubts = [
        not np.isfinite(rms),
        rms > 2,
        coverage < 0.25,
        explained < 0.5,
        weak > 0.1,
        profile is UNCERTAIN,
        model == "perspective" and travel < 0.1,
        moving > 0.8,
    ]
    if any(doubts):
        assert quality.verdict != "good"
    if not np.isfinite(rms) or coverage == 0 or explained == 0 or weak == 1:
        assert quality.verdict == "failed"
    assert bool(quality.reasons) == (quality.verdict != "good")


JOIN = WindowJoin(20, 29, 0.02, 0.05, 1.003, 1.0)


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        ({}, "perspective", ""),
        ({"scale_ratio": None}, "perspective", ""),
        ({"rotation_deg": 0.7}, "perspective", "frames 20-29 does not fit: 0.7 degrees"),
        ({"translation_percent": 2.0}, "perspective", "2% of the depth"),
        ({"translation_percent": 2.0}, "tripod", ""),
        ({"scale_ratio": 0.8}, "perspective", "scale by 20%"),
        ({"inliers": 0.4}, "perspective", "40% of its frames"),
    ],
)
def test_parts_of_a_long_clip_that_do_not_fit_are_told(changes, model, words):
    join = replace(JOIN, **changes)
    quality = judge(solution(model=model), plate_of(), 0.1, joins=[JOIN, join])
    assert quality.verdict == ("check" if words else "good")
    assert words in " ".join(quality.reasons)
    assert len(quality.reasons) == bool(words)
    assert quality.to_map()["window_joins"][1]["rotation_deg"] == join.rotation_deg


def test_joins_are_told_in_frame_numbers_of_the_plate():
    plate = replace(plate_of(), frame_numbers=list(range(1001, 1001 + NUM)))
    quality = judge(solution(), plate, 0.1, joins=[replace(JOIN, rotation_deg=1.0)])
    assert "frames 1021-1030" in quality.reasons[0]
    assert quality.window_joins[0].first_frame == 1021


def test_baseline_is_the_extent_of_the_path_over_the_depth():
    assert baseline_to_depth(solution(3.0)) == pytest.approx(0.3)
    assert baseline_to_depth(solution(3.0, model="tripod")) == 0.0
    none = np.empty(0, int)
    empty = PointCloud(
        np.empty((0, 3)), np.empty((0, 3), np.uint8), np.empty(0), none, none, np.empty((0, 2))
    )
    assert baseline_to_depth(solution(3.0, points=empty)) == 0.0


def test_a_moving_camera_without_points_is_never_good():
    none = np.empty(0, int)
    empty = PointCloud(
        np.empty((0, 3)), np.empty((0, 3), np.uint8), np.empty(0), none, none, np.empty((0, 2))
    )
    assert judge(solution(points=empty), plate_of(), 0.0).verdict != "good"


def test_numbers_are_passed_on_and_nan_becomes_none():
    per_frame = np.full(NUM, 0.4)
    per_frame[3] = NAN
    notice = Notice("tripod", "text")
    quality = judge(solution(per_frame_rms_px=per_frame, warnings=[notice]), plate_of(), 0.25)
    assert quality.per_frame_rms_px[3] is None
    assert quality.per_frame_rms_px[2] == pytest.approx(0.4)
    assert quality.moving_share == 0.25
    assert quality.num_points == 3
    assert quality.focal_profile is CERTAIN
    assert quality.warnings == [notice]
    assert not quality.scale_is_metric
