"""Motion masks of the engine with networks: the dense tracker's own verdict, at the size of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional as F


def write_motion_masks(static_probability: Tensor, size: tuple[int, int], path: Path) -> np.ndarray:
    """Masks of all frames, uint8 [N,height,width], memory-mapped, 1 = moving, 0 = static.

    Args:
        static_probability: of the tracker's cells, [N,h,w].
        size: width and height of the masks.
    """
    width, height = size
    shape = (len(static_probability), height, width)
    masks = np.memmap(path, np.uint8, mode="w+", shape=shape)
    for frame, static in enumerate(static_probability):
        enlarged = F.interpolate(static[None, None].float(), (height, width), mode="bilinear")
        masks[frame] = (enlarged[0, 0] < 0.5).numpy()
    return masks
