"""SIFT tracks over keyframes of pictures whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_server.tracking.feature_tracks import (
    _link,
    detect_features,
    match_features,
    match_keyframes,
)

from tests.server.tracking.moving_picture import HEIGHT, WIDTH, drift, move, store, texture


def silent(done: int, total: int) -> None: ...


def gray_texture() -> np.ndarray:
    return texture()[300 : 300 + HEIGHT, 300 : 300 + WIDTH].astype(np.uint8)


def test_features_are_linked_where_they_really_are(tmp_path):
    steps = [drift((6.0 * t, 2.0 * t), turn_deg=2.0 * t, scale=1.02**t) for t in range(12)]
    picture = move(tmp_path, steps)
    tracks = match_keyframes(picture.frames, None, list(range(0, 12, 2)), silent)
    assert tracks.num_tracks > 100
    assert set(tracks.frame.tolist()) == set(range(0, 12, 2))
    errors = picture.errors(tracks)
    assert np.median(errors) < 0.15
    assert (errors > 2).mean() < 0.04  # the rest is robust estimation's


def test_the_way_back_is_linked_to_the_way_there(tmp_path):
    """Out by 175 px, more than the picture, and back: the ends are too far apart in time to be
    compared as neighbours."""
    away = [0, 25, 60, 110, 150, 175, 175, 150, 110, 60, 25, 1]
    picture = move(tmp_path, [drift((float(x), 0.1 * x)) for x in away])
    last = len(away) - 1
    tracks = match_keyframes(picture.frames, None, list(range(last + 1)), silent)
    ids, there, back = tracks.shared(0, last)
    assert len(ids) > 100
    true = picture.truth(there, np.zeros(len(ids), int), np.full(len(ids), last))
    assert np.median(np.linalg.norm(back - true, axis=1)) < 0.15
    assert len(tracks.shared(0, 6)[0]) < 0.05 * len(ids)


def test_no_feature_in_a_mask(tmp_path):
    picture = move(tmp_path, [drift((3.0 * t, 0.0)) for t in range(6)])
    masks = np.zeros((6, HEIGHT, WIDTH), np.uint8)
    for t in range(6):
        masks[t, 20:100, 10 + 10 * t : 80 + 10 * t] = 1
    tracks = match_keyframes(picture.frames, store(tmp_path, masks), list(range(6)), silent)
    assert tracks.num_tracks > 30
    column, row = np.round(tracks.xy).astype(int).T
    assert not masks[tracks.frame, row, column].any()


def test_no_track_sees_a_keyframe_twice(tmp_path):
    picture = move(tmp_path, [drift((4.0 * t, 0.0), turn_deg=9.0 * t) for t in range(6)])
    tracks = match_keyframes(picture.frames, None, [0, 1, 3, 5], silent)
    assert len(np.unique(tracks.track * 10 + tracks.frame)) == len(tracks.track)
    assert tracks.lengths().min() >= 2
    assert set(tracks.frame.tolist()) <= {0, 1, 3, 5}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0, 255])
def test_blank_frames_have_no_tracks(value, tmp_path):
    frames = store(tmp_path, np.full((4, HEIGHT, WIDTH, 3), value, np.uint8))
    assert match_keyframes(frames, None, [0, 1, 3], silent).num_tracks == 0
    assert match_keyframes(frames, None, [0], silent).num_tracks == 0


def test_a_blank_keyframe_among_others_is_stepped_over(tmp_path):
    picture = move(tmp_path, [drift((3.0 * t, 0.0)) for t in range(5)])
    rgb = picture.frames.read(0, 5)
    rgb[2] = 0
    tracks = match_keyframes(store(tmp_path, rgb), None, list(range(5)), silent)
    assert len(tracks.shared(1, 3)[0]) > 50
    assert not (tracks.frame == 2).any()


def test_two_unlike_pictures_are_not_linked(tmp_path):
    one, other = (texture(seed)[300 : 300 + HEIGHT, 300 : 300 + WIDTH] for seed in (0, 9))
    rgb = np.stack([one, other]).astype(np.uint8)[..., None].repeat(3, axis=3)
    assert match_keyframes(store(tmp_path, rgb), None, [0, 1], silent).num_tracks == 0


def test_progress_goes_up_to_its_end(tmp_path):
    calls = []
    frames = move(tmp_path, [drift((3.0 * t, 0.0)) for t in range(4)]).frames
    match_keyframes(frames, None, [0, 1, 2, 3], lambda *a: calls.append(a))
    done = [c[0] for c in calls]
    assert done == sorted(done) and calls[-1] == (8, 8)


def test_descriptors_are_unit_and_places_are_unique():
    xy, descriptors = detect_features(gray_texture(), None)
    assert len(xy) > 100
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1.0, atol=1e-5)
    assert len(np.unique(np.round(xy, 1), axis=0)) == len(xy)


def test_repeated_texture_is_ambiguous_and_left_alone():
    rng = np.random.default_rng(0)
    unique = rng.random((20, 128)).astype(np.float32) ** 4
    unique /= np.linalg.norm(unique, axis=1, keepdims=True)
    matches = match_features(unique, unique[::-1])
    np.testing.assert_array_equal(matches.sum(axis=1), 19)
    assert len(matches) == 20
    twice = np.concatenate([unique, unique])
    twice += rng.normal(0, 0.01, twice.shape).astype(np.float32)
    twice /= np.linalg.norm(twice, axis=1, keepdims=True)
    assert len(match_features(unique, twice)) == 0


def test_linking_never_joins_two_features_of_one_keyframe():
    owner = np.array([0, 0, 1, 2, 2])
    edges = np.array([[0, 2], [2, 3], [1, 3], [1, 4]])
    track = _link(edges, owner)
    assert track[0] == track[2] == track[3]
    assert track[1] == track[4] != track[0]


def test_linking_gives_every_unmatched_feature_a_track_of_its_own():
    track = _link(np.empty((0, 2), int), np.array([0, 0, 1]))
    assert len(set(track.tolist())) == 3
