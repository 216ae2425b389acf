"""Steps between the convolutions as GPU kernels with gradients; see :mod:`megasam_server.models.learning_kernels`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from megasam_server.models import triton_kernels as plain
from megasam_server.models.triton_kernels import (
    context_rows,
    context_shift,
    empty_rows,
    map_rows,
    pixel_rows,
    tanh,
)

if TYPE_CHECKING:
    from megasam_server.models.pointwise import SharedMaps

ROWS_OF_STEP = 32  # of one step of a program
ROWS_OF_PROGRAM = 256


def pieces_of(rows: int, of_program: int = ROWS_OF_PROGRAM) -> int:
    """Number of programs for so many rows."""
    return triton.cdiv(rows, of_program)


def rows_of_program(rows: int) -> int:
    """Fewer where there are few: a GPU has hundreds of places for programs."""
    return max(ROWS_OF_STEP, min(ROWS_OF_PROGRAM, triton.next_power_of_2(rows // 512)))


def float_sums(like: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


# ------------------------------------------------------------------------------ bias, relu and join


@triton.jit
def _part_gradient_kernel(
    gradient,
    gradient_row,
    out,
    out_row,
    to,
    sums,
    rows,
    channels: tl.constexpr,
    BIAS_RELU: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_OF_PROGRAM: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    channel = tl.arange(0, CHANNELS)[None, :]
    first = tl.program_id(0).to(tl.int64) * ROWS_OF_PROGRAM
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, ROWS_OF_PROGRAM, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (channel < channels)
        value = tl.load(gradient + row * gradient_row + channel, inside, 0.0).to(tl.float32)
        if BIAS_RELU:
            value = tl.where(tl.load(out + row * out_row + channel, inside, 0.0) > 0, value, 0.0)
            total += value
        tl.store(to + row * channels + channel, value, inside)
    if BIAS_RELU:
        sums += tl.program_id(0).to(tl.int64) * channels
        tl.store(sums + channel, tl.sum(total, 0)[None, :], channel < channels)


def _part_gradient(
    gradient: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """By x and bias, from that by ``out`` = relu(x + bias); without bias from that by a copy of x."""
    channels = gradient.shape[1]
    rows, block = gradient.numel() // channels, triton.next_power_of_2(channels)
    of_program = rows_of_program(rows)
    pieces = pieces_of(rows, of_program)
    to = empty_rows(gradient, channels)
    sums = float_sums(gradient, pieces, channels)
    _part_gradient_kernel[(pieces,)](
        gradient,
        gradient.stride(3),
        out,
        out.stride(3),
        to,
        sums,
        rows,
        channels,
        BIAS_RELU=bias is not None,
        ROWS=min(4096 // block, of_program),
        ROWS_OF_PROGRAM=of_program,
        CHANNELS=block,
    )
    return to, None if bias is None else sums.sum(0).to(bias.dtype)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx, padding: int, *tensors: torch.Tensor | None) -> torch.Tensor:
        xs, biases = tensors[::2], tensors[1::2]
        out = plain.join(list(zip(xs, biases, strict=True)), padding)
        ctx.save_for_backward(out, *biases)
        ctx.channels = [x.shape[1] for x in xs]
        return out

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        out, *biases = ctx.saved_tensors
        gradient, start, found = pixel_rows(gradient), 0, []
        for channels, bias in zip(ctx.channels, biases, strict=True):
            part = slice(start, start + channels)
            found += _part_gradient(gradient[:, part], out[:, part], bias)
            start += channels
        return None, *found


def join(parts: list[tuple[torch.Tensor, torch.Tensor | None]], padding: int) -> torch.Tensor:
    return _Join.apply(padding, *(tensor for part in parts for tensor in part))


def bias_relu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return _Join.apply(0, x, bias)


# ----------------------------------------------------------------------------- gated recurrent unit


@triton.jit
def _gated_mean_gradient_kernel(
    gradient,
    gate,
    bias,
    h,
    to_gate,
    to_h,
    sums,
    pixels,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_OF_PROGRAM: tl.constexpr,
):
    edge = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, C)[None, :]
    shift = tl.load(bias + channel).to(tl.float32)
    of_mean = tl.load(gradient + edge * C + channel).to(tl.float32) / pixels
    total = tl.zeros((ROWS, C), tl.float32)
    first = tl.program_id(1) * ROWS_OF_PROGRAM
    for start in range(0, ROWS_OF_PROGRAM, ROWS):
        pixel = first + start + tl.arange(0, ROWS)[:, None]
        inside = pixel < pixels
        at = (edge * pixels + pixel) * C + channel
        open_share = tl.sigmoid(tl.load(gate + at, inside, 0.0).to(tl.float32) + shift)
        hidden = tl.load(h + at, inside, 0.0).to(tl.float32)
        of_gate = of_mean * hidden * open_share * (1 - open_share)
        tl.store(to_gate + at, of_gate, inside)
        tl.store(to_h + at, of_mean * open_share, inside)
        total += of_gate
    piece = edge * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + piece * C + channel, tl.sum(total, 0)[None, :])


class _GatedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: torch.Tensor, bias: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        gate, h = pixel_rows(gate), pixel_rows(h)
        ctx.save_for_backward(gate, bias, h)
        return plain.gated_mean(gate, bias, h)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        gate, bias, h = ctx.saved_tensors
        edges, channels, height, width = h.shape
        pieces = pieces_of(height * width)
        sums = float_sums(h, edges * pieces, channels)
        to_gate, to_h = torch.empty_like(gate), torch.empty_like(h)
        _gated_mean_gradient_kernel[(edges, pieces)](
            gradient.contiguous(),
            *(gate, bias, h, to_gate, to_h, sums, height * width),
            C=channels,
            ROWS=ROWS_OF_STEP,
            ROWS_OF_PROGRAM=ROWS_OF_PROGRAM,
        )
        return to_gate, sums.sum(0).to(bias.dtype), to_h


def gated_mean(gate: torch.Tensor, bias: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return _GatedMean.apply(gate, bias, h)


@triton.jit
def _reset_gradient_kernel(
    gradient,
    zr,
    context,
    maps,
    index,
    h,
    to_hx,
    to_zr,
    to_h,
    sums,
    pixels,
    context_pixels,
    MAPS: tl.constexpr,
    C: tl.constexpr,
    X: tl.constexpr,
    X_CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_OF_PROGRAM: tl.constexpr,
):
    edge = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, C)[None, :]
    other = tl.arange(0, X_CHANNELS)[None, :]
    total = tl.zeros((ROWS, C), tl.float32)
    nothing = tl.zeros((ROWS, C), tl.float32)
    first = tl.program_id(1) * ROWS_OF_PROGRAM
    for start in range(0, ROWS_OF_PROGRAM, ROWS):
        pixel = first + start + tl.arange(0, ROWS)[:, None]
        inside = pixel < pixels
        row = edge * pixels + pixel
        raw = tl.load(zr + row * (2 * C) + C + channel, inside, 0.0).to(tl.float32)
        raw += context_shift(
            context, maps, index, row, context_pixels, pixels, C + channel, inside, C, MAPS
        )
        reset = tl.sigmoid(raw)
        hidden = tl.load(h + row * C + channel, inside, 0.0).to(tl.float32)
        of_product = tl.load(gradient + row * (C + X) + channel, inside, 0.0).to(tl.float32)
        of_gate = of_product * hidden * reset * (1 - reset)
        tl.store(to_h + row * C + channel, of_product * reset, inside)
        tl.store(to_zr + row * (2 * C) + channel, nothing, inside)
        tl.store(to_zr + row * (2 * C) + C + channel, of_gate, inside)
        total += of_gate
        passed = inside & (other < X)
        at = row * (C + X) + C + other
        tl.store(to_hx + row * (C + X) + channel, nothing, inside)
        tl.store(to_hx + at, tl.load(gradient + at, passed, 0.0), passed)
    piece = edge * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + piece * C + channel, tl.sum(total, 0)[None, :])


class _ResetHidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hx, zr, context, h, shared: SharedMaps | None, *maps) -> torch.Tensor:
        zr, h = pixel_rows(zr), pixel_rows(h)
        context, ctx.context_pixels = context_rows(context, h)
        ctx.save_for_backward(zr, context, h, *map_rows(shared, context))
        ctx.shared = shared is not None
        return plain.reset_hidden(hx.clone(), zr, context, h, shared)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        zr, context, h, maps, index = ctx.saved_tensors
        edges, channels, height, width = h.shape
        of_program = rows_of_program(edges * height * width)
        pieces = pieces_of(height * width, of_program)
        sums = float_sums(h, edges, pieces, channels)
        gradient = pixel_rows(gradient)
        to_hx, to_zr, to_h = (empty_rows(h, x.shape[1]) for x in (gradient, zr, h))
        inputs = gradient.shape[1] - channels
        _reset_gradient_kernel[(edges, pieces)](
            *(gradient, zr, context, maps, index, h, to_hx, to_zr, to_h, sums),
            *(height * width, ctx.context_pixels),
            MAPS=ctx.shared,
            C=channels,
            X=inputs,
            X_CHANNELS=triton.next_power_of_2(inputs),
            ROWS=ROWS_OF_STEP // 2,
            ROWS_OF_PROGRAM=of_program,
        )
        to_context = torch.zeros_like(context)
        by_pixel = context.dim() == 4
        to_context[:, channels : 2 * channels] = to_zr[:, channels:] if by_pixel else sums.sum(1)
        found = to_hx, to_zr, to_context, to_h
        if not ctx.shared:
            return *found, None
        to_maps = torch.zeros_like(maps)
        to_maps[:, channels : 2 * channels] = _of_frames(to_zr, index, len(maps))[:, channels:]
        return *found, None, to_maps


def _of_frames(x: torch.Tensor, index: torch.Tensor, frames: int) -> torch.Tensor:
    """Sums over the edges of each frame: [E,C,h,w] in rows -> [U,C,h,w]; as a product, which sums in float32."""
    edges, channels, height, width = x.shape
    members = torch.arange(frames, device=x.device)[:, None] == index  # [U,E]
    rows = x.permute(0, 2, 3, 1).reshape(edges, -1)  # [E,h*w*C]
    return (members.to(x.dtype) @ rows).view(frames, height, width, channels).permute(0, 3, 1, 2)


def _maps_of(shared: SharedMaps | None) -> tuple[torch.Tensor, ...]:
    """What autograd must see to send a gradient there."""
    return () if shared is None else (shared.maps,)


def reset_hidden(
    hx: torch.Tensor,
    zr: torch.Tensor,
    context: torch.Tensor,
    h: torch.Tensor,
    shared: SharedMaps | None,
) -> torch.Tensor:
    return _ResetHidden.apply(hx, zr, context, h, shared, *_maps_of(shared))


@triton.jit
def _blend_gradient_kernel(
    gradient,
    zr,
    context,
    maps,
    index,
    q,
    h,
    to_zr,
    to_q,
    to_h,
    sums,
    pixels,
    context_pixels,
    MAPS: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_OF_PROGRAM: tl.constexpr,
):
    edge = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, C)[None, :]
    total_z = tl.zeros((ROWS, C), tl.float32)
    total_q = tl.zeros((ROWS, C), tl.float32)
    nothing = tl.zeros((ROWS, C), tl.float32)
    first = tl.program_id(1) * ROWS_OF_PROGRAM
    for start in range(0, ROWS_OF_PROGRAM, ROWS):
        pixel = first + start + tl.arange(0, ROWS)[:, None]
        inside = pixel < pixels
        row = edge * pixels + pixel
        at = row * C + channel
        z = tl.load(zr + row * (2 * C) + channel, inside, 0.0).to(tl.float32)
        z += context_shift(
            context, maps, index, row, context_pixels, pixels, channel, inside, C, MAPS
        )
        z = tl.sigmoid(z)
        new = tl.load(q + at, inside, 0.0).to(tl.float32)
        new += context_shift(
            context, maps, index, row, context_pixels, pixels, 2 * C + channel, inside, C, MAPS
        )
        new = tanh(new)
        old = tl.load(h + at, inside, 0.0).to(tl.float32)
        of_out = tl.load(gradient + at, inside, 0.0).to(tl.float32)
        of_z = of_out * (new - old) * z * (1 - z)
        of_q = of_out * z * (1 - new * new)
        tl.store(to_zr + row * (2 * C) + channel, of_z, inside)
        tl.store(to_zr + row * (2 * C) + C + channel, nothing, inside)
        tl.store(to_q + at, of_q, inside)
        tl.store(to_h + at, of_out * (1 - z), inside)
        total_z += of_z
        total_q += of_q
    piece = edge * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + piece * (2 * C) + channel, tl.sum(total_z, 0)[None, :])
    tl.store(sums + piece * (2 * C) + C + channel, tl.sum(total_q, 0)[None, :])


class _BlendHidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, zr, context, q, h, shared: SharedMaps | None, *maps) -> torch.Tensor:
        zr, q, h = pixel_rows(zr), pixel_rows(q), pixel_rows(h)
        context, ctx.context_pixels = context_rows(context, h)
        ctx.save_for_backward(zr, context, q, h, *map_rows(shared, context))
        ctx.shared = shared is not None
        return plain.blend_hidden(zr, context, q, h, shared)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        zr, context, q, h, maps, index = ctx.saved_tensors
        edges, channels, height, width = h.shape
        of_program = rows_of_program(edges * height * width)
        pieces = pieces_of(height * width, of_program)
        sums = float_sums(h, edges, pieces, 2, channels)
        to_zr, to_q, to_h = (torch.empty_like(x) for x in (zr, q, h))
        _blend_gradient_kernel[(edges, pieces)](
            *(pixel_rows(gradient), zr, context, maps, index, q, h, to_zr, to_q, to_h, sums),
            *(height * width, ctx.context_pixels),
            MAPS=ctx.shared,
            C=channels,
            ROWS=ROWS_OF_STEP // 2,
            ROWS_OF_PROGRAM=of_program,
        )
        if context.dim() == 4:
            to_context = torch.cat([to_zr, to_q], 1)  # that of the reset gate is zero in to_zr
        else:
            to_context = torch.zeros_like(context)
            to_context.unflatten(1, (3, channels))[:, ::2] = sums.sum(1)
        found = to_zr, to_context, to_q, to_h
        if not ctx.shared:
            return *found, None
        # The reset gate, whose gradient here is zero, lies between the two.
        of_gates = _of_frames(to_zr, index, len(maps))
        return *found, None, torch.cat([of_gates, _of_frames(to_q, index, len(maps))], 1)


def blend_hidden(
    zr: torch.Tensor,
    context: torch.Tensor,
    q: torch.Tensor,
    h: torch.Tensor,
    shared: SharedMaps | None,
) -> torch.Tensor:
    return _BlendHidden.apply(zr, context, q, h, shared, *_maps_of(shared))


@triton.jit
def gelu_slope(x):
    """d/dx x Phi(x) = Phi(x) + x phi(x)."""
    normal = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
    return normal + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
def _shared_gelu_gradient_kernel(
    gradient,
    x,
    bias,
    maps,
    index,
    to,
    sums,
    pixels,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_OF_PROGRAM: tl.constexpr,
):
    edge = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, C)[None, :]
    frame = tl.load(index + edge)
    shift = tl.load(bias + channel).to(tl.float32)
    total = tl.zeros((ROWS, C), tl.float32)
    first = tl.program_id(1) * ROWS_OF_PROGRAM
    for start in range(0, ROWS_OF_PROGRAM, ROWS):
        pixel = first + start + tl.arange(0, ROWS)[:, None]
        inside = pixel < pixels
        at = (edge * pixels + pixel) * C + channel
        value = tl.load(x + at, inside, 0.0).to(tl.float32) + shift
        value += tl.load(maps + (frame * pixels + pixel) * C + channel, inside, 0.0).to(tl.float32)
        of_out = tl.load(gradient + at, inside, 0.0).to(tl.float32)
        of_value = of_out * gelu_slope(value)
        tl.store(to + at, of_value, inside)
        total += of_value
    piece = edge * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + piece * C + channel, tl.sum(total, 0)[None, :])


class _SharedGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bias, shared: SharedMaps, maps) -> torch.Tensor:
        x = pixel_rows(x)
        ctx.save_for_backward(x, bias, *map_rows(shared, x))
        return plain.shared_gelu(x, bias, shared)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, bias, maps, index = ctx.saved_tensors
        edges, channels, height, width = x.shape
        pieces = pieces_of(height * width)
        sums = float_sums(x, edges * pieces, channels)
        to = torch.empty_like(x)
        _shared_gelu_gradient_kernel[(edges, pieces)](
            *(pixel_rows(gradient), x, bias, maps, index, to, sums, height * width),
            C=channels,
            ROWS=ROWS_OF_STEP // 2,
            ROWS_OF_PROGRAM=ROWS_OF_PROGRAM,
        )
        return to, sums.sum(0).to(bias.dtype), None, _of_frames(to, index, len(maps))


def shared_gelu(x: torch.Tensor, bias: torch.Tensor, shared: SharedMaps) -> torch.Tensor:
    return _SharedGelu.apply(x, bias, shared, shared.maps)
