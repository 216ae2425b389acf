"""Keyframes of clips that begin black or hold black frames."""

import numpy as np
import pytest
from megasam_server.tracking.keyframes import select_keyframes
from megasam_server.tracking.tracks import Tracks

from tests.server.tracking.test_keyframes import LONG_SIDE, moving


@pytest.mark.filterwarnings("error")
def test_frames_without_tracks_become_keyframes_without_complaint():
    """Black frames 10-14 in the middle: the picture before and after shares nothing."""
    tracks = moving(30, 2.0)
    dark = (tracks.frame >= 10) & (tracks.frame < 15)
    after = tracks.track + 100 * (tracks.frame >= 15)
    tracks = Tracks.from_observations(after[~dark], tracks.frame[~dark], tracks.xy[~dark])
    keyframes = select_keyframes(tracks, 30, LONG_SIDE)
    assert {0, 10, 15, 29} <= set(keyframes)


@pytest.mark.filterwarnings("error")
def test_a_clip_without_any_track_keeps_its_ends():
    none = Tracks.from_observations(np.empty(0, int), np.empty(0, int), np.empty((0, 2)))
    keyframes = select_keyframes(none, 10, LONG_SIDE)
    assert keyframes[0] == 0 and keyframes[-1] == 9
