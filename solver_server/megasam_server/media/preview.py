"""Small pictures of the frames that a stage is at, for whoever watches."""

from __future__ import annotations

import time

import cv2
import numpy as np

from megasam_server.pipeline.progress import Progress

WIDEST = 480
_SECONDS_BETWEEN = 0.5
_QUALITY = 80


class Previews:
    """Sends at most two pictures a second of one stage: more would cost the solve and show nothing."""

    def __init__(self, progress: Progress, stage: str):
        self._progress, self._stage = progress, stage
        self._next = 0.0

    def show(self, frame: int, rgb: np.ndarray) -> None:
        """Send a frame if it is time for one.

        Args:
            frame: its number in the plate.
            rgb: uint8 [H,W,3].
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SECONDS_BETWEEN
        height, width = rgb.shape[:2]
        if width > WIDEST:
            size = (WIDEST, max(1, round(height * WIDEST / width)))
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        parameters = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), parameters)
        if done:
            self._progress.preview(self._stage, frame, jpeg.tobytes())
