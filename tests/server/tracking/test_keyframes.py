"""Which frames become keyframes."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_server.tracking.keyframes import select_keyframes
from megasam_server.tracking.tracks import Tracks

LONG_SIDE = 640


def moving(num_frames: int, px_per_frame: float, tracks: int = 60, life: int | None = None):
    """Tracks that all move to the right; with ``life``, each is replaced after so many frames."""
    track, frame = (a.ravel() for a in np.indices((tracks, num_frames)))
    start = np.random.default_rng(0).uniform(0, 600, (tracks, 2))
    xy = start[track] + np.stack([px_per_frame * frame, 0 * frame], axis=1)
    if life is not None:
        track = track + tracks * (frame // life)
    return Tracks.from_observations(track, frame, xy)


def gaps(keyframes: list[int]) -> np.ndarray:
    return np.diff(keyframes)


@pytest.mark.parametrize("num_frames", [2, 3, 7, 12, 13, 14, 50])
@pytest.mark.parametrize("speed", [0.0, 3.0, 100.0])
def test_the_first_and_the_last_frame_always_are(num_frames, speed):
    keyframes = select_keyframes(moving(num_frames, speed), num_frames, LONG_SIDE)
    assert keyframes[0] == 0 and keyframes[-1] == num_frames - 1
    assert (gaps(keyframes) > 0).all()


def test_one_frame_is_its_own_keyframe():
    one = Tracks.from_observations(np.arange(3), np.zeros(3, int), np.zeros((3, 2)))
    assert select_keyframes(one, 1, LONG_SIDE) == [0]


def test_a_still_picture_has_few_keyframes_at_equal_distance():
    keyframes = select_keyframes(moving(60, 0.0), 60, LONG_SIDE)
    between = gaps(keyframes)[:-1]
    assert len(set(between.tolist())) == 1
    assert 4 <= between[0] <= 12
    assert gaps(keyframes)[-1] <= between[0]


def test_a_fast_picture_has_a_keyframe_every_frame():
    assert select_keyframes(moving(20, 0.05 * LONG_SIDE), 20, LONG_SIDE) == list(range(20))


def test_motion_of_a_twentieth_of_the_picture_starts_a_new_one():
    keyframes = select_keyframes(moving(40, 0.017 * LONG_SIDE), 40, LONG_SIDE)
    assert set(gaps(keyframes)[:-1].tolist()) == {3}


def test_it_is_the_share_of_the_picture_that_counts_not_pixels():
    small = select_keyframes(moving(30, 8.0), 30, LONG_SIDE)
    large = select_keyframes(moving(30, 8.0), 30, 4 * LONG_SIDE)
    assert len(large) < len(small)


def test_when_half_of_the_tracks_are_gone_there_is_a_keyframe():
    keyframes = select_keyframes(moving(30, 0.0, life=4), 30, LONG_SIDE)
    assert {4, 8, 12, 16} <= set(keyframes)


def test_one_fast_mover_in_a_still_picture_is_no_reason():
    still, fast = moving(30, 0.0, tracks=50), moving(30, 40.0, tracks=10)
    both = Tracks.from_observations(
        np.concatenate([still.track, fast.track + 50]),
        np.concatenate([still.frame, fast.frame]),
        np.concatenate([still.xy, fast.xy]),
    )
    assert select_keyframes(both, 30, LONG_SIDE) == select_keyframes(still, 30, LONG_SIDE)


def test_frames_without_tracks_become_keyframes():
    """Black frames 10-14 in the middle: the picture before and after shares nothing."""
    tracks = moving(30, 2.0)
    dark = (tracks.frame >= 10) & (tracks.frame < 15)
    after = tracks.track + 100 * (tracks.frame >= 15)
    tracks = Tracks.from_observations(after[~dark], tracks.frame[~dark], tracks.xy[~dark])
    keyframes = select_keyframes(tracks, 30, LONG_SIDE)
    assert {0, 10, 29} <= set(keyframes)
    assert gaps(keyframes).max() <= 12


def test_a_clip_without_any_track_keeps_its_ends():
    none = Tracks.from_observations(np.empty(0, int), np.empty(0, int), np.empty((0, 2)))
    keyframes = select_keyframes(none, 10, LONG_SIDE)
    assert keyframes[0] == 0 and keyframes[-1] == 9
