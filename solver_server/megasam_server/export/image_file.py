"""8-bit pictures on disk, in a way that a full disk cannot pass for success."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG of a grey [H,W] or BGR [H,W,3] uint8 picture; fast compression."""
    _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    return data.tobytes()


def fit_inside(pixels: np.ndarray, longest_side: int) -> np.ndarray:
    """``pixels`` [H,W(,C)] shrunk until no side exceeds ``longest_side``; never enlarged."""
    height, width = pixels.shape[:2]
    scale = longest_side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write :func:`encode_png`; OpenCV's own writer reports neither a full disk nor its reason."""
    path.write_bytes(encode_png(pixels))
