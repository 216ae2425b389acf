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
from torch import Tensor
from torch.nn import functional as F

from megasam_server.flow.consistency import warp
from megasam_server.models.cuda_graph import Replayed

CELL = 4
ITERATIONS = 3
_WINDOW = 5  # cells a side, averaged twice: a standard deviation of 2 cells
# Squared grey levels a pixel: the contrast below which noise would decide.
_LEAST_CONTRAST = 4.0
# Grey levels: what differs by more is occluded, and does not pull harder for that.
_LARGEST_RESIDUAL = 6.0
_LARGEST_STEP = 1.0  # pixels an iteration
_NEIGHBOUR = 4  # pixels
_ALIKE = 0.8  # pixels
_LUMA = (0.299, 0.587, 0.114)


def grey(pictures: Tensor) -> Tensor:
    """What :func:`refine_flow` compares, a little blurred: RGB 0-255, uint8 or floating [B,3,H,W] ->
    float32 [B,1,H,W]."""
    # Weights as plain numbers: a tensor of them would be copied to the device each time.
    luma = sum(weight * channel for weight, channel in zip(_LUMA, pictures.unbind(1), strict=True))
    padded = F.pad(luma[:, None], (1, 1, 1, 1), mode="replicate")
    # Means of two and again of two: weights 1 2 1 along both axes.
    return F.avg_pool2d(F.avg_pool2d(padded, 2, 1), 2, 1)


class FlowRefinement:
    """:func:`refine_flow` of one batch after the other. On CUDA batches of a shape that comes again are one
    graph of kernels."""

    def __init__(self) -> None:
        self._seen: set[torch.Size] = set()
        self._recorded: dict[torch.Size, _Recorded] = {}

    def __call__(self, flow: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """As :func:`refine_flow`; what is returned may be written over by the next call."""
        shape = flow.shape
        if not flow.is_cuda or shape not in self._seen:
            self._seen.add(shape)
            return refine_flow(flow, source, target)
        if shape not in self._recorded:
            self._recorded[shape] = _Recorded(flow, source, target)
        return self._recorded[shape](flow, source, target)


class _Recorded:
    """For batches of one shape; takes room for them, and for the answer."""

    def __init__(self, *given: Tensor) -> None:
        self._room = [tensor.clone() for tensor in given]
        self._answer = torch.empty_like(given[0])
        self._work = Replayed(
            lambda: self._answer.copy_(refine_flow(*self._room)), self._answer.device
        )

    def __call__(self, *given: Tensor) -> Tensor:
        for place, tensor in zip(self._room, given, strict=True):
            place.copy_(tensor)
        self._work()
        return self._answer


@torch.no_grad()
def refine_flow(flow: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Flow from ``source`` to ``target`` of B pairs, with errors below a pixel made smaller.

    Args:
        flow: float32 [B,2,H,W], pixels; H and W multiples of 4.
        source, target: from :func:`grey`, of B frames.
    """
    gradient = _gradient(source)  # [B,2,H,W]
    x, y = gradient.unbind(1)
    xx, xy, yy = _in_windows(torch.stack([x * x, x * y, y * y], 1)).unbind(1)
    xx, yy = xx + _LEAST_CONTRAST, yy + _LEAST_CONTRAST
    # Negative: a step leads against the residual.
    inverse = torch.stack([yy, -xy, -xy, xx], 1) / (xy * xy - xx * yy)[:, None]
    inverse = inverse.unflatten(1, (2, 2))  # [B,2,2,h,w]
    seen = torch.cat([target, torch.ones_like(target)], 1)
    flow = _smoothed(flow)
    for _ in range(ITERATIONS):
        arrived, inside = warp(seen, flow).split(1, 1)
        inside = (inside > 0.999).float()
        residual = _without_light((arrived - source) * inside, inside)
        pull = _in_windows(gradient * residual.clamp(-_LARGEST_RESIDUAL, _LARGEST_RESIDUAL))
        step = (inverse * pull[:, None]).sum(2)  # [B,2,h,w]
        length = torch.linalg.vector_norm(step, dim=1, keepdim=True)
        step = step / (length / _LARGEST_STEP).clamp(min=1)
        flow = flow + _per_pixel(step)
    return flow


def _gradient(picture: Tensor) -> Tensor:
    """Change per pixel along x and y: [B,1,H,W] -> [B,2,H,W]."""
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return torch.cat([across, down], 1) / 2


def _without_light(residual: Tensor, inside: Tensor) -> Tensor:
    """Residuals [B,1,H,W], zero outside, less what all in a window have in common: brightness may change."""
    total, share = _in_windows(torch.cat([residual, inside], 1)).split(1, 1)
    return (residual - _per_pixel(total / share.clamp(min=1e-3))) * inside


def _smoothed(flow: Tensor) -> Tensor:
    """Mean of each pixel and those of its eight neighbours, 4 pixels away, that move alike."""
    height, width = flow.shape[2:]
    around = F.pad(flow, (_NEIGHBOUR,) * 4, mode="replicate")
    total, weights = flow.clone(), torch.ones_like(flow[:, :1])
    offsets = (0, _NEIGHBOUR, 2 * _NEIGHBOUR)
    for dy in offsets:
        for dx in offsets:
            if (dy, dx) != (_NEIGHBOUR, _NEIGHBOUR):
                other = around[:, :, dy : dy + height, dx : dx + width]
                apart = (other - flow).square().sum(1, keepdim=True)
                weight = torch.exp(apart / (-2 * _ALIKE**2))
                total.addcmul_(weight, other)
                weights += weight
    return total / weights


def _in_windows(values: Tensor) -> Tensor:
    """Weighted means over the window of each cell: [B,C,H,W] -> [B,C,h,w]."""
    values = F.avg_pool2d(values, CELL)
    for _ in range(2):
        values = F.avg_pool2d(values, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
    return values


def _per_pixel(values: Tensor) -> Tensor:
    """[B,C,h,w] -> [B,C,H,W], bilinear."""
    return F.interpolate(values, scale_factor=CELL, mode="bilinear", align_corners=False)
