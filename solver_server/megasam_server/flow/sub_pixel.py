"""Dense flow, moved by parts of a pixel to where the two pictures agree best.

A flow network decides in cells of 8 x 8 pixels and fills in between by what it has learnt: it finds large motions
in spite of blur and occlusion, and is then off by a tenth to a third of a pixel where the pictures would tell
more. Here that flow is the start of Lucas and Kanade's method: every fourth pixel has a window of about 25
pixels, in which a common shift brings the residual down (Lucas and Kanade 1981; the gradient is the source's alone,
as in the inverse compositional form of Baker and Matthews 2004, section 3.2). Around that the flow keeps the
shape that the network gave it.

Shapes: B pairs, H x W pixels, h x w cells of 4 x 4.
"""

from __future__ import annotations

import torch
from kornia.color import rgb_to_grayscale
from kornia.filters import gaussian_blur2d, spatial_gradient
from torch import Tensor
from torch.nn import functional as F

from megasam_server.flow.consistency import stays_inside, warp

CELL = 4
ITERATIONS = 3
_PICTURE_BLUR = (3, 0.85)  # pixels: taps, sigma
_WINDOW = (11, 2.0)  # cells
_LIGHT = (11, 2.0)  # cells: brightness may change by as much as is common to those around
# Squared grey levels a pixel: the contrast below which noise would decide.
_LEAST_CONTRAST = 4.0
# Grey levels: what differs by more is occluded, and does not pull harder for that.
_LARGEST_RESIDUAL = 6.0
_LARGEST_STEP = 1.0  # pixels an iteration
_NEIGHBOUR = 4  # pixels
_ALIKE = 0.8  # pixels


def grey(pictures: Tensor) -> Tensor:
    """What :func:`refine_flow` compares: RGB 0-255, uint8 or floating [B,3,H,W] -> float32 [B,1,H,W]."""
    return _blurred(rgb_to_grayscale(pictures.float()), _PICTURE_BLUR)


@torch.no_grad()
def refine_flow(flow: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Flow from ``source`` to ``target`` of B pairs, with errors below a pixel made smaller.

    Args:
        flow: float32 [B,2,H,W], pixels.
        source, target: from :func:`grey`.
    """
    gradient = spatial_gradient(source)[:, 0]  # [B,2,H,W]
    x, y = gradient.unbind(1)
    xx, xy, yy = _in_windows(torch.stack([x * x, x * y, y * y], 1)).unbind(1)
    xx, yy = xx + _LEAST_CONTRAST, yy + _LEAST_CONTRAST
    inverse = torch.stack([yy, -xy, -xy, xx], 1) / (xx * yy - xy * xy)[:, None]  # [B,4,h,w]
    flow = _smoothed(flow)
    for _ in range(ITERATIONS):
        inside = stays_inside(flow)[:, None].float()
        residual = _without_light((warp(target, flow) - source) * inside, inside)
        residual = residual.clamp(-_LARGEST_RESIDUAL, _LARGEST_RESIDUAL)
        pull = _in_windows(gradient * residual).repeat(1, 2, 1, 1)
        step = -(inverse * pull).unflatten(1, (2, 2)).sum(2)  # [B,2,h,w]
        step = step / (step.norm(dim=1, keepdim=True) / _LARGEST_STEP).clamp(min=1)
        flow = flow + _per_pixel(step, flow)
    return flow


def _without_light(residual: Tensor, inside: Tensor) -> Tensor:
    """Residuals [B,1,H,W], zero outside, less what all those around have in common."""
    total, share = (_blurred(_cells(values), _LIGHT) for values in (residual, inside))
    return (residual - _per_pixel(total / share.clamp(min=1e-3), residual)) * inside


def _smoothed(flow: Tensor) -> Tensor:
    """Mean of each pixel and those of its eight neighbours, 4 pixels away, that move alike."""
    height, width = flow.shape[2:]
    around = F.pad(flow, (_NEIGHBOUR,) * 4, mode="replicate")
    total, weights = flow, torch.ones_like(flow[:, :1])
    offsets = (0, _NEIGHBOUR, 2 * _NEIGHBOUR)
    for dy in offsets:
        for dx in offsets:
            if (dy, dx) != (_NEIGHBOUR, _NEIGHBOUR):
                other = around[:, :, dy : dy + height, dx : dx + width]
                apart = (other - flow).square().sum(1, keepdim=True)
                weight = torch.exp(apart / (-2 * _ALIKE**2))
                total, weights = total + weight * other, weights + weight
    return total / weights


def _in_windows(values: Tensor) -> Tensor:
    """Means over the window of each cell: [B,C,H,W] -> [B,C,h,w]."""
    return _blurred(_cells(values), _WINDOW)


def _cells(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, CELL)


def _per_pixel(values: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(values, like.shape[2:], mode="bilinear", align_corners=False)


def _blurred(values: Tensor, kernel: tuple[int, float]) -> Tensor:
    taps, sigma = kernel
    return gaussian_blur2d(values, (taps, taps), (sigma, sigma), border_type="replicate")
