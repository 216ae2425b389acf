"""Edge-aware smoothing of maps that are known better in some pixels than in others."""

from __future__ import annotations

import cv2
import numpy as np


class GuidedFilter:
    """Guided filter (He, Sun, Tang 2013, eq. 5-6 and 19) with one colour guide for many maps.

    Args:
        guide: float32 0-1 [h,w,3].
        radius: window is (2 radius + 1)^2 pixels.
        smoothness: variance of the guide below which a region counts as flat.
    """

    def __init__(self, guide: np.ndarray, radius: int, smoothness: float) -> None:
        self._guide, self._window = guide, (2 * radius + 1, 2 * radius + 1)
        self._mean = self._box(guide)
        r, g, b = cv2.split(guide)
        mr, mg, mb = cv2.split(self._mean)
        e = np.float32(smoothness)
        rr, gg, bb = (self._box(c * c) - m * m + e for c, m in ((r, mr), (g, mg), (b, mb)))
        rg, rb, gb = (
            self._box(c * d) - m * n
            for c, d, m, n in ((r, g, mr, mg), (r, b, mr, mb), (g, b, mg, mb))
        )
        # Inverse of the symmetric 3x3 covariance, by cofactors.
        c_rr, c_rg, c_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
        c_gg, c_gb, c_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
        determinant = rr * c_rr + rg * c_rg + rb * c_rb
        self._inverse = [c / determinant for c in (c_rr, c_rg, c_rb, c_gg, c_gb, c_bb)]

    def _box(self, image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, self._window, borderType=cv2.BORDER_REFLECT)

    def smooth(self, values: np.ndarray) -> np.ndarray:
        """``values`` float32 [h,w] made to follow the guide's edges, float32 [h,w]."""
        mean = self._box(values)
        covariance = self._box(self._guide * values[..., None]) - self._mean * mean[..., None]
        r, g, b = cv2.split(covariance)
        rr, rg, rb, gg, gb, bb = self._inverse
        slope = cv2.merge(
            [rr * r + rg * g + rb * b, rg * r + gg * g + gb * b, rb * r + gb * g + bb * b]
        )
        offset = mean - np.sum(slope * self._mean, axis=2)
        return np.sum(self._box(slope) * self._guide, axis=2) + self._box(offset)
