"""Stage 1: relative disparity of every frame, on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from megasam_server.media.frame_store import FrameStore
from megasam_server.media.in_order import map_in_order
from megasam_server.media.lagging_copies import LaggingCopies


class MonoDepthNetwork(Protocol):
    """:class:`megasam_server.models.depth_anything.DepthAnything` is one."""

    def disparity(self, images: Tensor) -> Tensor:
        """RGB uint8 [B,3,H,W] -> relative disparity float32 [B,H,W], >= 0, larger is nearer."""


def estimate_disparity(
    frames: FrameStore,
    size: tuple[int, int],
    network: MonoDepthNetwork,
    chunk_size: int,
    device: torch.device,
    path: Path,
    report: Callable[[int], None],
) -> None:
    """Write the relative disparity of N frames to ``path``, see :func:`open_disparity`.

    Args:
        frames: N RGB frames, shown to the network as they are.
        size: width and height of the stored disparity, of the whole picture.
        chunk_size: frames that the network takes at once.
        report: told how many frames are done.
    """
    width, height = size

    def read(start: int) -> Tensor:
        return torch.from_numpy(frames.read(start, start + chunk_size))  # [B,H,W,3]

    with path.open("wb") as file:
        writer = LaggingCopies(lambda stored: file.write(stored.numpy().data))
        done = 0
        for read_rgb in map_in_order(read, range(0, frames.num_frames, chunk_size), 1, 2):
            rgb = read_rgb.to(device, non_blocking=True)
            disparity = network.disparity(rgb.permute(0, 3, 1, 2))  # [B,H,W]
            stored = F.interpolate(
                disparity[:, None].float(), (height, width), mode="bilinear", antialias=True
            )  # [B,1,height,width]
            writer.put(stored)
            done += len(rgb)
            report(done)
        writer.finish()


def open_disparity(path: Path, count: int, size: tuple[int, int]) -> np.ndarray:
    """Disparity float32 [count,height,width] of a finished file, memory-mapped."""
    width, height = size
    return np.memmap(path, np.float32, mode="r", shape=(count, height, width))
