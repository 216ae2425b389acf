"""Where a flow can be trusted: forward, then backward, must lead home."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_ERROR = 1.0
"""Pixels that a round trip may miss by, at the resolution of the masks (MegaSaM)."""


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """Flow [B,2,H,W] in pixels -> [B,2,height,width] in the pixels of that size; bilinear."""
    x, y = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False).unbind(1)
    return torch.stack([x * (width / flow.shape[3]), y * (height / flow.shape[2])], 1)


def warp(values: Tensor, flow: Tensor) -> Tensor:
    """``values`` of the target, seen from the source: bilinear at p + flow, zero outside.

    Args:
        values: floating [B,C,h,w]. flow: [B,2,h,w], pixels; pixel centres at integers.
    """
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)  # [w]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]  # [h,1]
    at_x = 2 * (x + flow[:, 0]) / (width - 1) - 1  # [B,h,w]
    at_y = 2 * (y + flow[:, 1]) / (height - 1) - 1  # [B,h,w]
    return F.grid_sample(values, torch.stack([at_x, at_y], -1), align_corners=True)


def round_trip_error(forward: Tensor, backward: Tensor) -> Tensor:
    """Pixels [B,h,w] by which forward, then backward, miss each source pixel.

    Args:
        forward, backward: [B,2,h,w], pixels. Outside the picture the backward flow counts as zero.
    """
    return torch.linalg.vector_norm(forward + warp(backward, forward), dim=1)


def consistent(forward: Tensor, backward: Tensor) -> Tensor:
    """Bool [B,h,w]: the round trip misses by less than :data:`LARGEST_ERROR`."""
    return round_trip_error(forward, backward) < LARGEST_ERROR
