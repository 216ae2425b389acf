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

    def best_first(self) -> np.ndarray:
        """Indices of all points, int64 [P]: those seen for long first, and of these the most exact."""
        if not len(self.xyz):
            return np.empty(0, np.int64)
        times_seen = np.bincount(self.seen_point, minlength=len(self.xyz))
        briefly_seen = times_seen < np.median(times_seen)
        return np.lexsort((self.error_px, briefly_seen))
