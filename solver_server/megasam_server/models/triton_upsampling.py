"""Convex upsampling as GPU kernels with a gradient; see :mod:`megasam_server.models.convex_upsampling`.

The plain version keeps weights in float32, and their products with the values, for every fine
pixel. Here the softmax is worked out anew wherever it is needed, from the logits, which are read once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from megasam_server.models.triton_kernels import empty_rows, pixel_rows

_PIXELS_AT_ONCE = 8  # coarse pixels of one program; each has 64 fine ones


@triton.jit
def _around(coarse, image, y, x, k, channel, inside, height, width, channels: tl.constexpr):
    """Values [P,C] of neighbour k of pixels [P]; zero outside the picture."""
    row = y + k // 3 - 1
    column = x + k % 3 - 1
    inside = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    at = (image[:, None] * channels + channel) * (height * width) + (row * width + column)[:, None]
    return tl.load(coarse + at, inside[:, None] & (channel < channels), 0.0).to(tl.float32)


@triton.jit
def _upsample_kernel(
    coarse,
    mask,
    mask_row,
    out,
    count,
    height,
    width,
    channels: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < count
    image = pixel // (height * width)
    y = pixel // width % height
    x = pixel % width
    fine = tl.arange(0, 64)[None, :]
    channel = tl.arange(0, CHANNELS)[None, :]
    logits = mask + pixel[:, None] * mask_row + fine
    largest = tl.full((PIXELS, 64), float("-inf"), tl.float32)
    for k in tl.static_range(9):
        logit = tl.load(logits + 64 * k, inside[:, None], 0.0).to(tl.float32)
        largest = tl.maximum(largest, logit)
    total = tl.zeros((PIXELS, 64), tl.float32)
    value = tl.zeros((PIXELS, CHANNELS, 64), tl.float32)
    for k in tl.static_range(9):
        logit = tl.load(logits + 64 * k, inside[:, None], 0.0).to(tl.float32)
        share = tl.exp(logit - largest)
        total += share
        around = _around(coarse, image, y, x, k, channel, inside, height, width, channels)
        value += share[:, None, :] * around[:, :, None]
    value = value / total[:, None, :]
    plane = (image[:, None] * channels + channel)[:, :, None] * (64 * height * width)
    within = (8 * y[:, None] + fine // 8) * (8 * width) + 8 * x[:, None] + fine % 8
    kept = inside[:, None, None] & (channel < channels)[:, :, None]
    tl.store(out + plane + within[:, None, :], value, kept)


@triton.jit
def _upsample_gradient_kernel(
    gradient,
    coarse,
    mask,
    mask_row,
    to_mask,
    to_around,
    count,
    height,
    width,
    channels: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < count
    image = pixel // (height * width)
    y = pixel // width % height
    x = pixel % width
    fine = tl.arange(0, 64)[None, :]
    channel = tl.arange(0, CHANNELS)[None, :]
    plane = (image[:, None] * channels + channel)[:, :, None] * (64 * height * width)
    within = (8 * y[:, None] + fine // 8) * (8 * width) + 8 * x[:, None] + fine % 8
    kept = inside[:, None, None] & (channel < channels)[:, :, None]
    of_out = tl.load(gradient + plane + within[:, None, :], kept, 0.0).to(tl.float32)
    logits = mask + pixel[:, None] * mask_row + fine
    largest = tl.full((PIXELS, 64), float("-inf"), tl.float32)
    for k in tl.static_range(9):
        logit = tl.load(logits + 64 * k, inside[:, None], 0.0).to(tl.float32)
        largest = tl.maximum(largest, logit)
    total = tl.zeros((PIXELS, 64), tl.float32)
    along = tl.zeros((PIXELS, 64), tl.float32)
    for k in tl.static_range(9):
        logit = tl.load(logits + 64 * k, inside[:, None], 0.0).to(tl.float32)
        share = tl.exp(logit - largest)
        around = _around(coarse, image, y, x, k, channel, inside, height, width, channels)
        total += share
        along += share * tl.sum(of_out * around[:, :, None], 1)
    along = along / total
    for k in tl.static_range(9):
        logit = tl.load(logits + 64 * k, inside[:, None], 0.0).to(tl.float32)
        share = tl.exp(logit - largest) / total
        around = _around(coarse, image, y, x, k, channel, inside, height, width, channels)
        of_logit = share * (tl.sum(of_out * around[:, :, None], 1) - along)
        tl.store(to_mask + pixel[:, None] * 576 + 64 * k + fine, of_logit, inside[:, None])
        of_around = tl.sum(of_out * share[:, None, :], 2)
        at = (image[:, None] * channels + channel) * 9 + k
        at = at * (height * width) + (y * width + x)[:, None]
        tl.store(to_around + at, of_around, inside[:, None] & (channel < channels))


class _Upsample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, coarse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        coarse, mask = coarse.contiguous(), pixel_rows(mask)
        ctx.save_for_backward(coarse, mask)
        images, channels, height, width = coarse.shape
        out = coarse.new_empty(images, channels, 8 * height, 8 * width)
        count = images * height * width
        _upsample_kernel[(triton.cdiv(count, _PIXELS_AT_ONCE),)](
            *(coarse, mask, mask.stride(3), out, count, height, width, channels),
            PIXELS=_PIXELS_AT_ONCE,
            CHANNELS=triton.next_power_of_2(channels),
        )
        return out

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        coarse, mask = ctx.saved_tensors
        images, channels, height, width = coarse.shape
        to_mask = empty_rows(mask, mask.shape[1])
        # What each pixel asks of its neighbours, then of each of these together.
        to_around = torch.empty(
            images, channels * 9, height * width, dtype=torch.float32, device=mask.device
        )
        count = images * height * width
        _upsample_gradient_kernel[(triton.cdiv(count, _PIXELS_AT_ONCE),)](
            *(gradient.contiguous(), coarse, mask, mask.stride(3), to_mask, to_around),
            *(count, height, width, channels),
            PIXELS=_PIXELS_AT_ONCE,
            CHANNELS=triton.next_power_of_2(channels),
        )
        to_coarse = torch.nn.functional.fold(to_around, (height, width), 3, padding=1)
        return to_coarse.to(coarse.dtype), to_mask


def upsample_convex(coarse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _Upsample.apply(coarse, mask)
