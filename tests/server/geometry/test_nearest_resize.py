"""Nearest-neighbour resizing."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from megasam_server.geometry.nearest_resize import resized_nearest

sides = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides)
def test_the_pixel_under_the_centre(height, width, new_height, new_width):
    image = np.arange(height * width).reshape(height, width)
    got = resized_nearest(image, new_width, new_height)
    for row in {0, new_height // 2, new_height - 1}:
        for column in {0, new_width // 2, new_width - 1}:
            y = floor((row + Fraction(1, 2)) * height / new_height)
            x = floor((column + Fraction(1, 2)) * width / new_width)
            assert got[row, column] == image[y, x]


def test_channels_stay_together():
    image = np.random.default_rng(0).random((4, 5, 3))
    np.testing.assert_array_equal(resized_nearest(image, 10, 8)[::2, ::2], image)
