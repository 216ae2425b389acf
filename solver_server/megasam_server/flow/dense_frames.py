"""Frames and the artist's masks at the size that flow, motion masks and depth are computed at."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import cv2
import numpy as np

from megasam_server.media.frame_store import FrameStore

LONG_SIDE = 640
"""Flow, motion masks and depth keep the frames' aspect; their long side is this at most, pixels."""

LEAST_SIDE = 12
"""DIS takes nothing smaller, pixels."""


def dense_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of flow, masks and depth for frames of ``width`` x ``height`` pixels."""
    scale = min(1.0, LONG_SIDE / max(width, height))
    return max(LEAST_SIDE, round(width * scale)), max(LEAST_SIDE, round(height * scale))


class DenseFrames:
    """Frames resized to :func:`dense_size`, for several threads; the last grey ones are kept.

    Args:
        frames: RGB.
        left_out: 0 = use, anything else = leave out; as many frames, any size; or None.
        keep: grey frames kept, enough for the longest flow step both ways.
    """

    def __init__(self, frames: FrameStore, left_out: FrameStore | None, keep: int = 40) -> None:
        self._frames, self._left_out, self._keep = frames, left_out, keep
        self.width, self.height = dense_size(frames.width, frames.height)
        self._grey: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return self._frames.num_frames

    def rgb(self, index: int) -> np.ndarray:
        """Frame ``index``, uint8 [h,w,3]."""
        size = (self.width, self.height)
        return cv2.resize(self._frames.frame(index), size, interpolation=cv2.INTER_AREA)

    def grey(self, index: int) -> np.ndarray:
        """Frame ``index``, uint8 [h,w]."""
        with self._lock:
            grey = self._grey.get(index)
        if grey is None:
            grey = cv2.cvtColor(self.rgb(index), cv2.COLOR_RGB2GRAY)
            with self._lock:
                self._grey[index] = grey
                if len(self._grey) > self._keep:
                    self._grey.popitem(last=False)
        return grey

    def left_out(self, index: int) -> np.ndarray | None:
        """Pixels that touch the artist's mask of a frame, bool [h,w]; None without masks."""
        if self._left_out is None:
            return None
        mask = (self._left_out.frame(index) > 0).astype(np.float32)
        return cv2.resize(mask, (self.width, self.height), interpolation=cv2.INTER_AREA) > 0
