"""Solved static points and where they were seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PointCloud:
    """P static points with M observations.

    Attributes:
        xyz: world positions, float64 [P,3], OpenCV axes.
        rgb: colours, uint8 [P,3].
        error_px: RMS reprojection error of each point, plate pixels, float64 [P].
        seen_point, seen_frame: indices of point and frame of each observation, int64 [M].
        seen_xy: observed plate pixels with the lens distortion taken out, centres at integers, float64 [M,2].
    """

    xyz: np.ndarray
    rgb: np.ndarray
    error_px: np.ndarray
    seen_point: np.ndarray
    seen_frame: np.ndarray
    seen_xy: np.ndarray
