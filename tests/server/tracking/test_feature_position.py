"""Features lie where the picture has them, to a twentieth of a pixel."""

import numpy as np
from megasam_server.tracking.feature_tracks import detect_features

WIDTH, HEIGHT = 160, 120


def test_features_lie_where_pixel_centres_are_integers():
    """A symmetric blob with its centre on a pixel is found at that pixel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    blob = 40 + 200 * np.exp(-((x - 83.0) ** 2 + (y - 57.0) ** 2) / (2 * 4.0**2))
    xy, _ = detect_features(blob.astype(np.uint8), None)
    assert np.linalg.norm(xy - [83, 57], axis=1).min() < 0.1
