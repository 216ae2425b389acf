"""Corner tracks in pictures whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_server.tracking.optical_tracks import detect_corners, follow_corners

from tests.server.tracking.moving_picture import HEIGHT, WIDTH, drift, move, store, texture

MOTIONS = {
    "pan": [drift((2.3 * t, 0.7 * t)) for t in range(12)],
    "roll": [drift((0.5 * t, 0.0), turn_deg=0.8 * t) for t in range(12)],
    "zoom": [drift((0.0, 0.4 * t), scale=1.012**t) for t in range(12)],
    "fast": [drift((9.0 * t, -3.0 * t)) for t in range(12)],
    "tilt": [
        drift((1.0 * t, 0.5 * t)) @ np.array([[1, 0, 0], [0, 1, 0], [2e-5 * t, 1e-5 * t, 1]])
        for t in range(12)
    ],
}


def silent(done: int, total: int) -> None: ...


@pytest.mark.parametrize("name", MOTIONS)
def test_corners_are_followed_to_a_fraction_of_a_pixel(name, tmp_path):
    picture = move(tmp_path, MOTIONS[name])
    tracks = follow_corners(picture.frames, None, silent)
    assert np.bincount(tracks.frame, minlength=12).min() > 80
    to_rim = np.minimum(tracks.xy, [WIDTH - 1, HEIGHT - 1] - tracks.xy).min(axis=1)
    nearest = np.full(tracks.num_tracks, np.inf)
    np.minimum.at(nearest, tracks.track, to_rim)
    errors = picture.errors(tracks.select(nearest[tracks.track] >= 8))
    assert len(errors) > 500
    assert np.median(errors) < 0.06
    assert np.percentile(errors, 99) < 0.15
    assert np.median(picture.errors(tracks)) < 0.08


def test_the_error_does_not_grow_with_the_length_of_a_track(tmp_path):
    picture = move(tmp_path, [drift((0.4 * t, 0.0), turn_deg=0.1 * t) for t in range(28)])
    tracks = follow_corners(picture.frames, None, silent)
    whole = tracks.with_min_length(28)
    assert whole.num_tracks > 40
    error = picture.errors(whole).reshape(-1, 27)
    assert np.median(error[:, -1]) < 0.08


def test_every_track_sees_a_frame_once_and_stays_inside_the_picture(tmp_path):
    tracks = follow_corners(move(tmp_path, MOTIONS["fast"]).frames, None, silent)
    assert tracks.lengths().min() >= 2
    same = np.diff(tracks.track) == 0
    assert (np.diff(tracks.frame)[same] == 1).all()
    assert (tracks.xy >= 0).all()
    assert (tracks.xy <= [WIDTH - 1, HEIGHT - 1]).all()


def test_no_track_enters_a_mask(tmp_path):
    """The mask moves against the picture, so that tracks run into it."""
    picture = move(tmp_path, MOTIONS["pan"])
    masks = np.zeros((12, HEIGHT, WIDTH), np.uint8)
    for t in range(12):
        masks[t, 30:90, 90 - 4 * t : 140 - 4 * t] = 1
    tracks = follow_corners(picture.frames, store(tmp_path, masks), silent)
    column, row = np.round(tracks.xy).astype(int).T
    assert not masks[tracks.frame, row, column].any()
    assert np.bincount(tracks.frame, minlength=12).min() > 50
    free = follow_corners(picture.frames, None, silent)
    column, row = np.round(free.xy).astype(int).T
    assert masks[free.frame, row, column].mean() > 0.05


def test_a_mask_over_everything_leaves_nothing(tmp_path):
    picture = move(tmp_path, MOTIONS["pan"][:4])
    masks = store(tmp_path, np.ones((4, HEIGHT, WIDTH), np.uint8))
    assert follow_corners(picture.frames, masks, silent).num_tracks == 0


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_frames_have_no_tracks(value, tmp_path):
    frames = store(tmp_path, np.full((5, HEIGHT, WIDTH, 3), value, np.uint8))
    assert follow_corners(frames, None, silent).num_tracks == 0


def test_a_single_frame_has_no_tracks(tmp_path):
    assert follow_corners(move(tmp_path, [np.eye(3)]).frames, None, silent).num_tracks == 0


def test_black_frames_end_the_tracks_and_new_ones_begin_after_them(tmp_path):
    picture = move(tmp_path, MOTIONS["pan"])
    rgb = picture.frames.read(0, 12)
    rgb[5:7] = 0
    tracks = follow_corners(store(tmp_path, rgb), None, silent)
    per_frame = np.bincount(tracks.frame, minlength=12)
    assert (per_frame[5:7] == 0).all()
    assert (np.delete(per_frame, [5, 6]) > 80).all()
    before, after = tracks.track[tracks.frame < 5], tracks.track[tracks.frame > 6]
    assert not set(before) & set(after)


def test_a_cut_is_not_tracked_across(tmp_path):
    """Another picture from frame 6 on: next to nothing may be followed into it."""
    rgb = move(tmp_path, MOTIONS["pan"]).frames.read(0, 12)
    other = texture(5)[300 : 300 + HEIGHT, 300 : 300 + WIDTH].astype(np.uint8)
    rgb[6:] = other[..., None]
    tracks = follow_corners(store(tmp_path, rgb), None, silent)
    before, after = tracks.track[tracks.frame == 5], tracks.track[tracks.frame == 6]
    assert len(np.intersect1d(before, after)) <= 0.02 * len(before)


def test_progress_ends_at_the_number_of_frames(tmp_path):
    calls = []
    follow_corners(move(tmp_path, MOTIONS["pan"][:5]).frames, None, lambda *a: calls.append(a))
    assert calls == [(t + 1, 5) for t in range(5)]


def test_corners_keep_away_from_those_that_are_there():
    gray = texture()[300 : 300 + HEIGHT, 300 : 300 + WIDTH].astype(np.uint8)
    first = detect_corners(gray, np.empty((0, 2), np.float32), None, 1000)
    assert len(first) > 50
    gap = np.linalg.norm(first[:, None] - first[None], axis=2)[np.triu_indices(len(first), 1)]
    assert gap.min() >= 5
    half = first[::2]
    second = detect_corners(gray, half, None, 1000)
    assert len(second) > 10
    assert np.linalg.norm(second[:, None] - half[None], axis=2).min() > 4


def test_one_textured_corner_does_not_take_all_points():
    gray = texture()[300 : 300 + HEIGHT, 300 : 300 + WIDTH]
    faint = 128 + 0.15 * (gray - 128)
    faint[:60, :80] = gray[:60, :80]
    corners = detect_corners(
        np.clip(faint, 0, 255).astype(np.uint8), np.empty((0, 2), np.float32), None, 200
    )
    strong = ((corners < [80, 60]).all(axis=1)).mean()
    assert strong < 0.4
