"""Norms as GPU kernels with gradients, for training; see :mod:`megasam_server.models.learning_kernels`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from megasam_server.models import triton_kernels as plain
from megasam_server.models.learning_pointwise import (
    ROWS_OF_PROGRAM,
    ROWS_OF_STEP,
    float_sums,
    gelu_slope,
    pieces_of,
)
from megasam_server.models.triton_kernels import pixel_rows, shifted_norm


@triton.jit
def _norm_gelu_gradient_kernel(
    gradient,
    x,
    shift,
    shift_edge,
    shift_y,
    shift_x,
    weight,
    bias,
    to,
    sums,
    rows,
    height,
    width,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_OF_PROGRAM: tl.constexpr,
):
    channel = tl.arange(0, C)[None, :]
    scale = tl.load(weight + channel).to(tl.float32)
    offset = tl.load(bias + channel).to(tl.float32)
    total_scale = tl.zeros((ROWS, C), tl.float32)
    total_offset = tl.zeros((ROWS, C), tl.float32)
    total_x = tl.zeros((ROWS, C), tl.float32)
    first = tl.program_id(0).to(tl.int64) * ROWS_OF_PROGRAM
    for start in range(0, ROWS_OF_PROGRAM, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        inside = row < rows
        normed, inverse = shifted_norm(
            x, shift, shift_edge, shift_y, shift_x, row, channel, inside, height, width, eps, C
        )
        raised = normed * scale + offset
        of_out = tl.load(gradient + row * C + channel, inside, 0.0).to(tl.float32)
        of_raised = of_out * gelu_slope(raised)
        total_scale += of_raised * normed
        total_offset += of_raised
        of_normed = of_raised * scale
        along = (tl.sum(of_normed * normed, 1) / C)[:, None]
        of_value = inverse * (of_normed - (tl.sum(of_normed, 1) / C)[:, None] - normed * along)
        of_value = tl.where(inside, of_value, 0.0)
        total_x += of_value
        tl.store(to + row * C + channel, of_value, inside)
    sums += tl.program_id(0).to(tl.int64) * (3 * C) + channel
    tl.store(sums, tl.sum(total_scale, 0)[None, :])
    tl.store(sums + C, tl.sum(total_offset, 0)[None, :])
    tl.store(sums + 2 * C, tl.sum(total_x, 0)[None, :])


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, shift, weight, bias, eps: float, residual) -> torch.Tensor:
        x = pixel_rows(x)
        ctx.save_for_backward(x, shift, weight, bias)
        ctx.eps, ctx.residual = eps, residual is not None
        return plain.norm_gelu(x, shift, weight, bias, eps, residual)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, shift, weight, bias = ctx.saved_tensors
        edges, channels, height, width = x.shape
        rows = edges * height * width
        sums = float_sums(x, pieces_of(rows), 3, channels)
        to = torch.empty_like(x)
        by_border = shift.dim() == 4
        shifts = shift.permute(0, 2, 3, 1).contiguous() if by_border else shift
        _norm_gelu_gradient_kernel[(pieces_of(rows),)](
            pixel_rows(gradient),
            *(x, shifts, *(shifts.stride()[:3] if by_border else (0, 0, 0)), weight, bias),
            *(to, sums, rows, height, width, ctx.eps),
            C=channels,
            ROWS=ROWS_OF_STEP // 4,
            ROWS_OF_PROGRAM=ROWS_OF_PROGRAM,
        )
        of_scale, of_offset, of_x = sums.sum(0)
        of_shift = _by_border(to) if by_border else of_x
        residual = gradient if ctx.residual else None
        of_norm = (of_scale.to(weight.dtype), of_offset.to(bias.dtype))
        return to, of_shift.to(shift.dtype), *of_norm, None, residual


def _by_border(x: torch.Tensor) -> torch.Tensor:
    """Sums over the first, the inner and the last rows and columns: [E,C,h,w] -> float32 [E,C,3,3]."""
    for axis in (2, 3):
        size = x.shape[axis]
        inner = x.narrow(axis, 1, size - 2).sum(axis, keepdim=True, dtype=torch.float32)
        x = torch.cat([x.narrow(axis, 0, 1), inner, x.narrow(axis, size - 1, 1)], axis)
    return x


def norm_gelu(
    x: torch.Tensor,
    shift: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    return _NormGelu.apply(x, shift, weight, bias, eps, residual)


@triton.jit
def _instance_norm_gradient_kernel(
    gradient,
    x,
    mean,
    inverse,
    means,
    to,
    sums,
    pixels,
    channels: tl.constexpr,
    RELU: tl.constexpr,
    SUMS: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)[None, :]
    live = channel < channels
    of_image = image * channels + channel
    middle = tl.load(mean + of_image, live, 0.0)
    scale = tl.load(inverse + of_image, live, 0.0)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    total_along = tl.zeros((ROWS, CHANNELS), tl.float32)
    if not SUMS:
        mean_out = tl.load(means + 2 * image * channels + channel, live, 0.0)
        mean_along = tl.load(means + (2 * image + 1) * channels + channel, live, 0.0)
    for step in range(STEPS):
        pixel = (tl.program_id(1) * STEPS + step) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (pixel < pixels) & live
        at = (image * pixels + pixel) * channels + channel
        normed = (tl.load(x + at, inside, 0.0).to(tl.float32) - middle) * scale
        of_out = tl.load(gradient + at, inside, 0.0).to(tl.float32)
        if RELU:
            of_out = tl.where(normed > 0, of_out, 0.0)
        if SUMS:
            total += of_out
            total_along += of_out * normed
        else:
            tl.store(to + at, scale * (of_out - mean_out - normed * mean_along), inside)
    if SUMS:
        piece = image * tl.num_programs(1) + tl.program_id(1)
        tl.store(sums + 2 * piece * channels + channel, tl.sum(total, 0)[None, :], live)
        along = tl.sum(total_along, 0)[None, :]
        tl.store(sums + (2 * piece + 1) * channels + channel, along, live)


class _InstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, eps: float, relu: bool) -> torch.Tensor:
        x = pixel_rows(x)
        moments = plain.instance_moments(x, eps)
        ctx.save_for_backward(x, *moments)
        ctx.relu = relu
        return plain.normalised(x, *moments, relu)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, mean, inverse = ctx.saved_tensors
        images, channels, height, width = x.shape
        block = triton.next_power_of_2(channels)
        rows, steps = 4096 // block, 8
        pieces = triton.cdiv(height * width, rows * steps)
        sums = float_sums(x, images, pieces, 2, channels)
        means, to = float_sums(x, images, 2, channels), torch.empty_like(x)
        given = pixel_rows(gradient), x, mean, inverse, means, to, sums, height * width, channels
        blocks = {"ROWS": rows, "STEPS": steps, "CHANNELS": block, "RELU": ctx.relu}
        _instance_norm_gradient_kernel[(images, pieces)](*given, SUMS=True, **blocks)
        torch.div(sums.sum(1), height * width, out=means)
        _instance_norm_gradient_kernel[(images, pieces)](*given, SUMS=False, **blocks)
        return to, None, None


def instance_norm(x: torch.Tensor, eps: float, relu: bool) -> torch.Tensor:
    return _InstanceNorm.apply(x, eps, relu)
