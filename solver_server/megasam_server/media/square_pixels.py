"""Stretch non-square pixels (anamorphic or old video formats) to square ones.

The height stays, the width is multiplied by the pixel aspect ratio: that is the picture players and
viewers show, and the only one in which one focal length holds for both axes.
"""

from __future__ import annotations

import cv2
import numpy as np
from megasam_shared.quality import Notice


def square_size(width: int, height: int, pixel_aspect: float) -> tuple[int, int]:
    """Size with square pixels, for the stored size and pixel width / pixel height."""
    return round(width * pixel_aspect), height


def to_square_pixels(picture: np.ndarray, pixel_aspect: float) -> np.ndarray:
    """Resize [H,W,C] of uint8, uint16, float16 or float32 to square pixels; same type."""
    height, stored = picture.shape[:2]
    size = square_size(stored, height, pixel_aspect)
    if size[0] == stored:
        return picture
    # Linear never overshoots: no negative light, no alpha above one.
    filtered = cv2.INTER_LINEAR if size[0] > stored else cv2.INTER_AREA
    if picture.dtype == np.float16:  # OpenCV does not resize half floats
        return cv2.resize(picture.astype(np.float32), size, interpolation=filtered).astype(
            np.float16
        )
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=filtered)


def square_pixels_notice(name: str, pixel_aspect: float) -> Notice:
    """Tell that the plate was stretched."""
    return Notice(
        "non_square_pixels",
        f"{name} has pixels {pixel_aspect:.4g} times as wide as high; it is solved stretched to"
        " square pixels, and all pixel figures are in the stretched picture.",
        "Use the stretched size for the film back and the image plane.",
    )
