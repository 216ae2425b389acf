"""Decoded frames on disk, read in chunks: memory does not grow with the length of the clip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class FrameStore:
    """N frames at the resolution the solver works at.

    Attributes:
        path: raw uint8 file, C order.
        num_frames, width, height, channels: shape of the file; 3 channels = RGB display-referred, 1 = mask.
    """

    path: Path
    num_frames: int
    width: int
    height: int
    channels: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start`` .. ``stop``-1, uint8 [n,H,W,3] (RGB) or [n,H,W] (one channel), in memory."""
        shape = (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)
        size = int(np.prod(shape))
        stop = min(stop, self.num_frames)
        flat = np.fromfile(self.path, np.uint8, count=(stop - start) * size, offset=start * size)
        return flat.reshape(stop - start, *shape)

    def frame(self, index: int) -> np.ndarray:
        """One frame, uint8 [H,W,3] or [H,W]."""
        return self.read(index, index + 1)[0]
