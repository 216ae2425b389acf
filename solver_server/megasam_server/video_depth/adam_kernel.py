"""A step of Adam as one GPU kernel; its plain-torch twin and the meaning are in ``adam``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024  # values of one program


@triton.jit
def _update_kernel(
    values,
    gradient,
    means,
    squares,
    scales,
    count,
    mean_decay,
    square_decay,
    least_root,
    least,
    most,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    g = tl.load(gradient + at, inside, 0.0)
    mean = tl.load(means + at, inside, 0.0)
    square = tl.load(squares + at, inside, 0.0)
    mean += mean_decay * (g - mean)
    square += square_decay * (g * g - square)
    tl.store(means + at, mean, inside)
    tl.store(squares + at, square, inside)
    rate = tl.load(scales)
    per_root = tl.load(scales + 1)
    value = tl.load(values + at, inside, 0.0)
    value -= rate * mean / (tl.sqrt(square) * per_root + least_root)
    tl.store(values + at, tl.minimum(tl.maximum(value, least), most), inside)


def update(
    values: torch.Tensor,
    gradient: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    scales: torch.Tensor,
    decays: list[float],
    least_root: float,
    bounds: tuple[float, float],
) -> None:
    """One step of contiguous ``values``, in place, and of their two moments."""
    count = values.numel()
    _update_kernel[(triton.cdiv(count, _BLOCK),)](
        values,
        gradient.contiguous(),
        mean,
        square,
        scales,
        count,
        *decays,
        least_root,
        *bounds,
        BLOCK=_BLOCK,
    )
