"""The functions of :mod:`megasam_server.models.triton_kernels` with gradients, for training.

Forward passes are the same kernels, but leave their inputs as they are. Each backward pass reads and
writes every value once and works the inner values out anew. Gradients of what all pixels share are
summed in float32, in pieces whose number does not depend on the device: the same every time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from megasam_server.models import triton_kernels as plain
from megasam_server.models.triton_kernels import (
    context_shift,
    empty_rows,
    map_rows,
    pixel_rows,
    shifted_norm,
    tanh,
)

if TYPE_CHECKING:
    from megasam_server.models.pointwise import SharedMaps

_ROWS = 32  # of one step of a program
_ROWS_OF_PROGRAM = 256


def _pieces(rows: int) -> int:
    """Number of programs for so many rows."""
    return triton.cdiv(rows, _ROWS_OF_PROGRAM)


def _sums(like: torch.Tensor, *shape: int) -> torch.Tensor:
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
    to = empty_rows(gradient, channels)
    sums = _sums(gradient, _pieces(rows), channels)
    _part_gradient_kernel[(_pieces(rows),)](
        gradient,
        gradient.stride(3),
        out,
        out.stride(3),
        to,
        sums,
        rows,
        channels,
        BIAS_RELU=bias is not None,
        ROWS=min(4096 // block, _ROWS_OF_PROGRAM),
        ROWS_OF_PROGRAM=_ROWS_OF_PROGRAM,
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
        pieces = _pieces(height * width)
        sums = _sums(h, edges * pieces, channels)
        to_gate, to_h = torch.empty_like(gate), torch.empty_like(h)
        _gated_mean_gradient_kernel[(edges, pieces)](
            gradient.contiguous(),
            *(gate, bias, h, to_gate, to_h, sums, height * width),
            C=channels,
            ROWS=_ROWS,
            ROWS_OF_PROGRAM=_ROWS_OF_PROGRAM,
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
            context, maps, index, row, pixels, pixels, C + channel, inside, C, MAPS
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
        zr, context, h = pixel_rows(zr), context.contiguous(), pixel_rows(h)
        ctx.save_for_backward(zr, context, h, *map_rows(shared, context))
        ctx.shared = shared is not None
        return plain.reset_hidden(hx.clone(), zr, context, h, shared)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        zr, context, h, maps, index = ctx.saved_tensors
        edges, channels, height, width = h.shape
        pieces = _pieces(height * width)
        sums = _sums(h, edges, pieces, channels)
        gradient = pixel_rows(gradient)
        to_hx, to_zr, to_h = (empty_rows(h, x.shape[1]) for x in (gradient, zr, h))
        inputs = gradient.shape[1] - channels
        _reset_gradient_kernel[(edges, pieces)](
            *(gradient, zr, context, maps, index, h, to_hx, to_zr, to_h, sums, height * width),
            MAPS=ctx.shared,
            C=channels,
            X=inputs,
            X_CHANNELS=triton.next_power_of_2(inputs),
            ROWS=_ROWS // 2,
            ROWS_OF_PROGRAM=_ROWS_OF_PROGRAM,
        )
        to_context = torch.zeros_like(context)
        to_context[:, channels : 2 * channels] = sums.sum(1)
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
        z += context_shift(context, maps, index, row, pixels, pixels, channel, inside, C, MAPS)
        z = tl.sigmoid(z)
        new = tl.load(q + at, inside, 0.0).to(tl.float32)
        new += context_shift(
            context, maps, index, row, pixels, pixels, 2 * C + channel, inside, C, MAPS
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
        zr, context, q, h = pixel_rows(zr), context.contiguous(), pixel_rows(q), pixel_rows(h)
        ctx.save_for_backward(zr, context, q, h, *map_rows(shared, context))
        ctx.shared = shared is not None
        return plain.blend_hidden(zr, context, q, h, shared)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        zr, context, q, h, maps, index = ctx.saved_tensors
        edges, channels, height, width = h.shape
        pieces = _pieces(height * width)
        sums = _sums(h, edges, pieces, 2, channels)
        to_zr, to_q, to_h = (torch.empty_like(x) for x in (zr, q, h))
        _blend_gradient_kernel[(edges, pieces)](
            *(pixel_rows(gradient), zr, context, maps, index, q, h, to_zr, to_q, to_h, sums),
            height * width,
            MAPS=ctx.shared,
            C=channels,
            ROWS=_ROWS // 2,
            ROWS_OF_PROGRAM=_ROWS_OF_PROGRAM,
        )
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
def _gelu_slope(x):
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
        of_value = of_out * _gelu_slope(value)
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
        pieces = _pieces(height * width)
        sums = _sums(x, edges * pieces, channels)
        to = torch.empty_like(x)
        _shared_gelu_gradient_kernel[(edges, pieces)](
            *(pixel_rows(gradient), x, bias, maps, index, to, sums, height * width),
            C=channels,
            ROWS=_ROWS // 2,
            ROWS_OF_PROGRAM=_ROWS_OF_PROGRAM,
        )
        return to, sums.sum(0).to(bias.dtype), None, _of_frames(to, index, len(maps))


def shared_gelu(x: torch.Tensor, bias: torch.Tensor, shared: SharedMaps) -> torch.Tensor:
    return _SharedGelu.apply(x, bias, shared, shared.maps)


# ---------------------------------------------------------------------------------------- norms


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
        of_raised = of_out * _gelu_slope(raised)
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
        sums = _sums(x, _pieces(rows), 3, channels)
        to = torch.empty_like(x)
        by_border = shift.dim() == 4
        shifts = shift.permute(0, 2, 3, 1).contiguous() if by_border else shift
        _norm_gelu_gradient_kernel[(_pieces(rows),)](
            pixel_rows(gradient),
            *(x, shifts, *(shifts.stride()[:3] if by_border else (0, 0, 0)), weight, bias),
            *(to, sums, rows, height, width, ctx.eps),
            C=channels,
            ROWS=_ROWS // 4,
            ROWS_OF_PROGRAM=_ROWS_OF_PROGRAM,
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
        sums = _sums(x, images, pieces, 2, channels)
        means, to = _sums(x, images, 2, channels), torch.empty_like(x)
        given = pixel_rows(gradient), x, mean, inverse, means, to, sums, height * width, channels
        blocks = {"ROWS": rows, "STEPS": steps, "CHANNELS": block, "RELU": ctx.relu}
        _instance_norm_gradient_kernel[(images, pieces)](*given, SUMS=True, **blocks)
        torch.div(sums.sum(1), height * width, out=means)
        _instance_norm_gradient_kernel[(images, pieces)](*given, SUMS=False, **blocks)
        return to, None, None


def instance_norm(x: torch.Tensor, eps: float, relu: bool) -> torch.Tensor:
    return _InstanceNorm.apply(x, eps, relu)


# --------------------------------------------------------------------------------- correlation


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
    tl.store(out + (pixel * rows + v) * columns + u, value, inside)


class _Windows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, coords: torch.Tensor, radius: int, *levels: torch.Tensor) -> torch.Tensor:
        coords = coords.float().contiguous()
        ctx.save_for_backward(coords)
        ctx.radius, ctx.sizes = radius, [level.shape[3:] for level in levels]
        return plain.lookup_windows(list(levels), coords, radius)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (coords,) = ctx.saved_tensors
        gradient = pixel_rows(gradient)
        edges, height, width = coords.shape[:3]
        taps = (2 * ctx.radius + 1) ** 2
        count, at_once = edges * height * width, 16
        found = []
        for level, (rows, columns) in enumerate(ctx.sizes):
            out = gradient.new_zeros(edges, height, width, rows, columns)
            _window_gradient_kernel[(triton.cdiv(count, at_once),)](
                gradient[:, level * taps :],
                gradient.stride(3),
                *(coords, out, count, rows, columns, 0.5**level),
                RADIUS=ctx.radius,
                PLACES=triton.next_power_of_2((2 * ctx.radius + 2) ** 2),
                PIXELS=at_once,
            )
            found.append(out)
        return None, None, *found


def lookup_windows(levels: list[torch.Tensor], coords: torch.Tensor, radius: int) -> torch.Tensor:
    """Places get no gradient."""
    return _Windows.apply(coords.detach(), radius, *levels)
