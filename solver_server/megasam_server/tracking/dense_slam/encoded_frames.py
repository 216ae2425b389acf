"""The frames of a clip with their matching features, one after the other."""

from __future__ import annotations

from collections import deque

from torch import Tensor

from megasam_server.tracking.dense_slam.feature_bank import FeatureBank
from megasam_server.tracking.dense_slam.frames import FrameSource, TrackingFrame


class EncodedFrames:
    """Encodes frames some at a time, before it is known which of them become keyframes: a single one
    leaves most of a GPU idle.

    Args:
        frames: asked for in order.
        batch: how many are encoded together.
    """

    def __init__(self, frames: FrameSource, bank: FeatureBank, batch: int) -> None:
        self._frames, self._bank, self._batch = frames, bank, batch
        self._next = 0
        self._ready: deque[tuple[TrackingFrame, Tensor]] = deque()

    def take(self, number: int) -> tuple[TrackingFrame, Tensor]:
        """A frame and its features [128, h, w]; the one behind that which was taken last, or any other."""
        if number != self._next or not self._ready:
            last = min(number + self._batch, len(self._frames))
            frames = [self._frames[k] for k in range(number, last)]
            self._ready = deque(zip(frames, self._bank.features(frames), strict=True))
        self._next = number + 1
        frame, fmap = self._ready.popleft()
        # A part of the batch would keep all of it alive.
        return frame, fmap.clone()
