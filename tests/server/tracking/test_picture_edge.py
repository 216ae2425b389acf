"""No patch may hang over the edge of the picture: it would be aligned against made-up pixels."""

import numpy as np
import pytest
from megasam_server.tracking.optical_tracks import follow_corners

from tests.server.tracking.moving_picture import move
from tests.server.tracking.test_optical_tracks import MOTIONS, silent


@pytest.mark.parametrize("name", MOTIONS)
def test_corners_are_followed_to_a_fraction_of_a_pixel(name, tmp_path):
    picture = move(tmp_path, MOTIONS[name])
    tracks = follow_corners(picture.frames, None, silent)
    per_frame = np.bincount(tracks.frame, minlength=12)
    assert per_frame.min() > 80
    errors = picture.errors(tracks)
    assert np.median(errors) < 0.08
    assert np.percentile(errors, 90) < 0.15
    assert (errors > 1).mean() < 0.005
