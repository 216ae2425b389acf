"""Decoded frames on disk, read in chunks: memory does not grow with the length of the clip."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from megasam_shared.errors import MegasamError

NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@dataclass(frozen=True)
class FrameStore:
    """N frames at the resolution the solver works at.

    Attributes:
        path: raw uint8 file, C order.
        num_frames, width, height, channels: shape of the file; 3 channels = RGB display-referred,
            1 = mask.
    """

    path: Path
    num_frames: int
    width: int
    height: int
    channels: int

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame: (H, W, 3), or (H, W) with one channel."""
        if self.channels == 1:
            return self.height, self.width
        return self.height, self.width, self.channels

    @property
    def frame_bytes(self) -> int:
        return self.height * self.width * self.channels

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start`` .. ``stop``-1, uint8 [n,H,W,3] (RGB) or [n,H,W] (one channel)."""
        stop = min(stop, self.num_frames)
        count, offset = (stop - start) * self.frame_bytes, start * self.frame_bytes
        flat = np.fromfile(self.path, np.uint8, count=count, offset=offset)
        return flat.reshape(stop - start, *self.frame_shape)

    def frame(self, index: int) -> np.ndarray:
        """One frame, uint8 [H,W,3] or [H,W]."""
        return self.read(index, index + 1)[0]


def write_frame_store(store: FrameStore, frames: Iterable[np.ndarray]) -> None:
    """Write the file of ``store``. It appears under its name complete, or not at all.

    Args:
        store: what to write; its folder is made.
        frames: ``store.num_frames`` arrays uint8 of ``store.frame_shape``, taken one at a time.

    Raises:
        MegasamError: ``disk_full``, before the first frame where the file cannot fit.
        ValueError: frames of another shape, type or number.
    """
    store.path.parent.mkdir(parents=True, exist_ok=True)
    needed = store.num_frames * store.frame_bytes
    if needed > shutil.disk_usage(store.path.parent).free:
        raise _disk_full(store, needed)
    unfinished = store.path.with_name(store.path.name + ".part")
    count = 0
    try:
        with unfinished.open("wb", buffering=0) as file:
            for frame in frames:
                if frame.shape != store.frame_shape or frame.dtype != np.uint8:
                    raise ValueError(f"{frame.dtype} {frame.shape}, not {store.frame_shape}")
                rest = memoryview(np.ascontiguousarray(frame)).cast("B")
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    if error.errno in NO_SPACE:
                        raise _disk_full(store, needed) from error
                    raise
                count += 1
        if count != store.num_frames:
            raise ValueError(f"{count} frames came for a store of {store.num_frames}")
        os.replace(unfinished, store.path)
    finally:
        unfinished.unlink(missing_ok=True)


def _disk_full(store: FrameStore, needed: int) -> MegasamError:
    return MegasamError(
        "disk_full",
        f"There is no room left in {store.path.parent}: {store.num_frames} frames of"
        f" {store.width} x {store.height} need {needed / 2**20:.0f} MiB.",
        "Free some space, give the solver another work folder, or solve fewer frames.",
    )
