"""What the solver uses of pycolmap, by OpenCV: for GPU machines that do not have it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

RANSACOptions = SimpleNamespace


def estimate_fundamental_matrix(
    first: np.ndarray, second: np.ndarray, options: SimpleNamespace
) -> dict[str, Any] | None:
    """pycolmap's answer of this name, as far as it is used."""
    try:
        matrix, inliers = cv2.findFundamentalMat(
            first,
            second,
            cv2.USAC_DEFAULT,
            options.max_error,
            options.confidence,
            options.max_num_trials,
        )
    except cv2.error:  # what OpenCV has for points without a model, on a flat wall for instance
        return None
    if matrix is None:
        return None
    inliers = inliers.ravel() > 0
    return {"num_inliers": int(inliers.sum()), "inlier_mask": inliers}
