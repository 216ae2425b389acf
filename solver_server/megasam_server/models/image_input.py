"""Plate pixels as the networks take them."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def unit_range(images: Tensor) -> Tensor:
    """uint8 images as float32 in 0..1; floating-point images unchanged but for their dtype."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    return images.float()


def imagenet_normalised(images: Tensor) -> Tensor:
    """RGB images [B,3,H,W] in 0..1 -> the same shape, ImageNet mean and deviation taken out."""
    # Numbers, not tensors of them: those would be copied from the host for every frame.
    channels = zip(images.unbind(1), IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)
    return torch.stack([(x - mean) / deviation for x, mean, deviation in channels], dim=1)
