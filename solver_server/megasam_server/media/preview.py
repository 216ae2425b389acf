"""Small pictures of the frames that a stage is at, for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from megasam_server.pipeline.progress import Progress

WIDEST = 480
_SECONDS_BETWEEN = 0.5
_QUALITY = 80
_TINT = (255, 40, 40)


class Previews:
    """Sends at most two pictures a second of one stage: more would cost the solve and show nothing."""

    def __init__(self, progress: Progress, stage: str, frame_numbers: Sequence[int]):
        self._progress, self._stage, self._numbers = progress, stage, frame_numbers
        self._next = 0.0

    def show(self, index: int, picture: Callable[[], np.ndarray]) -> None:
        """Send a frame if it is time for one.

        Args:
            index: of the frame; its number in the plate is ``frame_numbers[index]``.
            picture: makes the picture, RGB uint8 [H,W,3]; only called when it is sent.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SECONDS_BETWEEN
        rgb = picture()
        height, width = rgb.shape[:2]
        if width > WIDEST:
            size = (WIDEST, max(1, round(height * WIDEST / width)))
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        parameters = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), parameters)
        if done:
            self._progress.preview(self._stage, self._numbers[index], jpeg.tobytes())


def tinted(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """RGB uint8 [H,W,3] where the pixels of ``mask`` [H,W] that are not 0 are half red."""
    shown = rgb.copy()
    chosen = mask > 0
    shown[chosen] = (0.5 * shown[chosen] + 0.5 * np.array(_TINT)).astype(np.uint8)
    return shown
