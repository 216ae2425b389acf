"""The lookup of correlations as GPU kernels with a gradient; see :mod:`megasam_server.models.learning_kernels`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from megasam_server.models import triton_kernels as plain
from megasam_server.models.triton_kernels import pixel_rows


@triton.jit
def _window_gradient_kernel(
    gradient,
    gradient_row,
    coords,
    out,
    count,
    rows,
    columns,
    scale,
    ADD: tl.constexpr,
    RADIUS: tl.constexpr,
    PLACES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    window: tl.constexpr = 2 * RADIUS + 1
    pixel = (tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS))[:, None]
    place = tl.arange(0, PLACES)[None, :]
    a = place // (window + 1)
    b = place % (window + 1)
    live = (pixel < count) & (a <= window)
    x = tl.load(coords + 2 * pixel, pixel < count, 0.0) * scale
    y = tl.load(coords + 2 * pixel + 1, pixel < count, 0.0) * scale
    left = tl.floor(x)
    top = tl.floor(y)
    dx = x - left
    dy = y - top
    # A value of the volume is read by four taps: that at its own offset, and those one before.
    at = gradient + pixel * gradient_row + a * window + b
    in_a = (a < window) & live
    in_a1 = (a > 0) & live
    in_b = b < window
    in_b1 = b > 0
    value = (1 - dx) * (1 - dy) * tl.load(at, in_a & in_b, 0.0).to(tl.float32)
    value += dx * (1 - dy) * tl.load(at - window, in_a1 & in_b, 0.0).to(tl.float32)
    value += (1 - dx) * dy * tl.load(at - 1, in_a & in_b1, 0.0).to(tl.float32)
    value += dx * dy * tl.load(at - window - 1, in_a1 & in_b1, 0.0).to(tl.float32)
    u = tl.clamp(left, -1e6, 1e6).to(tl.int32) + a - RADIUS
    v = tl.clamp(top, -1e6, 1e6).to(tl.int32) + b - RADIUS
    inside = (u >= 0) & (u < columns) & (v >= 0) & (v < rows) & live
    to = out + (pixel * rows + v) * columns + u
    if ADD:
        value += tl.load(to, inside, 0.0).to(tl.float32)
    tl.store(to, value, inside)


class _Windows(torch.autograd.Function):
    """Gives the levels back, too: a later lookup of these hands its gradient to this one, which adds its
    own to it, in a few places."""

    @staticmethod
    def forward(
        ctx, coords: torch.Tensor, radius: int, padding: int, *levels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        coords = coords.float().contiguous()
        ctx.save_for_backward(coords)
        ctx.radius, ctx.sizes = radius, [level.shape[3:] for level in levels]
        ctx.set_materialize_grads(False)
        return plain.lookup_windows(list(levels), coords, radius, padding), *levels

    @staticmethod
    def backward(
        ctx, gradient: torch.Tensor | None, *later: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        if gradient is None:
            return None, None, None, *later
        (coords,) = ctx.saved_tensors
        gradient = pixel_rows(gradient)
        edges, height, width = coords.shape[:3]
        taps = (2 * ctx.radius + 1) ** 2
        count, at_once = edges * height * width, 16
        found = []
        for level, (rows, columns) in enumerate(ctx.sizes):
            if later[level] is None:
                out = gradient.new_zeros(edges, height, width, rows, columns)
            else:
                out = later[level].contiguous()
            _window_gradient_kernel[(triton.cdiv(count, at_once),)](
                gradient[:, level * taps :],
                gradient.stride(3),
                *(coords, out, count, rows, columns, 0.5**level),
                ADD=later[level] is not None,
                RADIUS=ctx.radius,
                PLACES=triton.next_power_of_2((2 * ctx.radius + 2) ** 2),
                PIXELS=at_once,
            )
            found.append(out)
        return None, None, None, *found


def lookup_windows(
    levels: list[torch.Tensor], coords: torch.Tensor, radius: int, padding: int = 0
) -> torch.Tensor:
    """Places get no gradient. The entries of ``levels`` are replaced by the same values, for the next lookup."""
    windows, *levels[:] = _Windows.apply(coords.detach(), radius, padding, *levels)
    return windows
