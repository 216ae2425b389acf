"""GPU kernels between the convolutions: each reads and writes every value once.

Launched through :mod:`megasam_server.models.pointwise` and
:mod:`megasam_server.models.correlation`, which hold the plain-torch twins and the meaning. Tensors
[E,C,h,w] are channels last in memory, that is rows of C values, one row per pixel; a slice of the
channels is as good (``row`` below is the distance of two rows). All arithmetic is float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from megasam_server.models.pointwise import SharedMaps

_BLOCK_VALUES = 4096  # rows x channels of one program of the pointwise kernels
_STEPS = 8  # of so many values, of one program that sums over pixels
_PIXELS_AT_ONCE = 16  # of one program of the lookup


def pixel_rows(x: torch.Tensor) -> torch.Tensor:
    """``x``, its pixels as rows in memory: [E,C,h,w] with strides (h*w*row, 1, w*row, row)."""
    row = x.stride(3)
    width, height = x.shape[3], x.shape[2]
    if x.stride(1) == 1 and x.stride(2) == width * row and x.stride(0) == height * width * row:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def empty_rows(like: torch.Tensor, channels: int) -> torch.Tensor:
    edges, _, height, width = like.shape
    return like.new_empty(edges, height, width, channels).permute(0, 3, 1, 2)


def _tiling(x: torch.Tensor) -> tuple[int, int, int]:
    """Number of rows, and rows and channels of one program."""
    block_channels = triton.next_power_of_2(x.shape[1])
    return x.numel() // x.shape[1], max(1, _BLOCK_VALUES // block_channels), block_channels


@triton.jit
def tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _gelu(x):
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _copy_kernel(
    x,
    x_row,
    bias,
    out,
    out_row,
    rows,
    channels: tl.constexpr,
    BIAS_RELU: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = tl.arange(0, CHANNELS)[None, :]
    inside = (row < rows) & (channel < channels)
    value = tl.load(x + row * x_row + channel, inside).to(tl.float32)
    if BIAS_RELU:
        value += tl.load(bias + channel, channel < channels).to(tl.float32)
        value = tl.maximum(value, 0.0)
    tl.store(out + row * out_row + channel, value, inside)


def _copy(x: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    x = pixel_rows(x)
    rows, block_rows, block_channels = _tiling(x)
    _copy_kernel[(triton.cdiv(rows, block_rows),)](
        x,
        x.stride(3),
        x if bias is None else bias,
        out,
        out.stride(3),
        rows,
        x.shape[1],
        BIAS_RELU=bias is not None,
        ROWS=block_rows,
        CHANNELS=block_channels,
    )


def bias_relu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    out = pixel_rows(x)
    _copy(out, bias, out)
    return out


def join(parts: list[tuple[torch.Tensor, torch.Tensor | None]], padding: int) -> torch.Tensor:
    channels = sum(x.shape[1] for x, _ in parts)
    out = empty_rows(parts[0][0], channels + padding)
    start = 0
    for x, bias in parts:
        _copy(x, bias, out[:, start : start + x.shape[1]])
        start += x.shape[1]
    if padding:
        out[:, channels:] = 0
    return out


@triton.jit
def _gated_mean_kernel(
    gate, bias, h, out, pixels, channels: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    edge = tl.program_id(0).to(tl.int64)
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    shift = tl.load(bias + channel).to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, pixels, ROWS):
        row = (start + tl.arange(0, ROWS))[:, None]
        at = (edge * pixels + row) * channels + channel
        raw = tl.load(gate + at, row < pixels, 0.0).to(tl.float32)
        hidden = tl.load(h + at, row < pixels, 0.0).to(tl.float32)
        total += tl.sigmoid(raw + shift) * hidden
    mean = tl.sum(total, 0)[None, :] / pixels
    tl.store(out + edge * channels + channel, mean)


def gated_mean(gate: torch.Tensor, bias: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    edges, channels, height, width = h.shape
    block = 16  # channels: one sector of memory in half precision
    gate = gate.contiguous(memory_format=torch.channels_last)
    h = h.contiguous(memory_format=torch.channels_last)
    out = h.new_empty(edges, channels)
    _gated_mean_kernel[(edges, channels // block)](
        gate, bias, h, out, height * width, channels, ROWS=128, CHANNELS=block
    )
    return out


def context_rows(context: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, int]:
    """``context`` as rows in memory, and how many pixels share a row."""
    if context.dim() == 4:
        return context.contiguous(memory_format=torch.channels_last), 1
    return context.contiguous(), h.shape[2] * h.shape[3]


def map_rows(shared: SharedMaps | None, unused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps as rows in memory, and the places of the edges' frames among them."""
    if shared is None:
        return unused, unused
    return shared.maps.contiguous(memory_format=torch.channels_last), shared.index.contiguous()


@triton.jit
def context_shift(context, maps, index, row, pixels, image, channel, inside, C: tl.constexpr, MAPS):
    """Channels of the context of pixels, and of the map of their edge's frame."""
    value = tl.load(context + (row // pixels) * (3 * C) + channel, inside).to(tl.float32)
    if MAPS:
        frame = tl.load(index + row // image, inside, 0)
        at = maps + (frame * image + row % image) * (3 * C) + channel
        value += tl.load(at, inside).to(tl.float32)
    return value


@triton.jit
def _reset_kernel(
    zr,
    context,
    maps,
    index,
    h,
    out,
    out_row,
    rows,
    pixels,
    image,
    MAPS: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = tl.arange(0, C)[None, :]
    inside = row < rows
    raw = tl.load(zr + row * (2 * C) + C + channel, inside).to(tl.float32)
    raw += context_shift(context, maps, index, row, pixels, image, C + channel, inside, C, MAPS)
    hidden = tl.load(h + row * C + channel, inside).to(tl.float32)
    tl.store(out + row * out_row + channel, tl.sigmoid(raw) * hidden, inside)


def reset_hidden(
    hx: torch.Tensor,
    zr: torch.Tensor,
    context: torch.Tensor,
    h: torch.Tensor,
    shared: SharedMaps | None,
) -> torch.Tensor:
    rows, block_rows, channels = _tiling(h)
    context, pixels = context_rows(context, h)
    maps, index = map_rows(shared, context)
    zr = zr.contiguous(memory_format=torch.channels_last)
    h = h.contiguous(memory_format=torch.channels_last)
    _reset_kernel[(triton.cdiv(rows, block_rows),)](
        zr,
        context,
        maps,
        index,
        h,
        hx,
        hx.stride(3),
        rows,
        pixels,
        h.shape[2] * h.shape[3],
        MAPS=shared is not None,
        C=channels,
        ROWS=block_rows,
    )
    return hx


@triton.jit
def _blend_kernel(
    zr,
    context,
    maps,
    index,
    q,
    h,
    out,
    rows,
    pixels,
    image,
    MAPS: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = tl.arange(0, C)[None, :]
    inside = row < rows
    z = tl.load(zr + row * (2 * C) + channel, inside).to(tl.float32)
    z += context_shift(context, maps, index, row, pixels, image, channel, inside, C, MAPS)
    z = tl.sigmoid(z)
    new = tl.load(q + row * C + channel, inside).to(tl.float32)
    new += context_shift(context, maps, index, row, pixels, image, 2 * C + channel, inside, C, MAPS)
    new = tanh(new)
    old = tl.load(h + row * C + channel, inside).to(tl.float32)
    tl.store(out + row * C + channel, old + z * (new - old), inside)


def blend_hidden(
    zr: torch.Tensor,
    context: torch.Tensor,
    q: torch.Tensor,
    h: torch.Tensor,
    shared: SharedMaps | None,
) -> torch.Tensor:
    rows, block_rows, channels = _tiling(h)
    context, pixels = context_rows(context, h)
    maps, index = map_rows(shared, context)
    zr = zr.contiguous(memory_format=torch.channels_last)
    q = q.contiguous(memory_format=torch.channels_last)
    h = h.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(h)
    _blend_kernel[(triton.cdiv(rows, block_rows),)](
        zr,
        context,
        maps,
        index,
        q,
        h,
        out,
        rows,
        pixels,
        h.shape[2] * h.shape[3],
        MAPS=shared is not None,
        C=channels,
        ROWS=block_rows,
    )
    return out


@triton.jit
def _shared_gelu_kernel(
    x, bias, maps, index, out, rows, image, C: tl.constexpr, ROWS: tl.constexpr
):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = tl.arange(0, C)[None, :]
    inside = row < rows
    frame = tl.load(index + row // image, inside, 0)
    value = tl.load(x + row * C + channel, inside).to(tl.float32)
    value += tl.load(bias + channel).to(tl.float32)
    value += tl.load(maps + (frame * image + row % image) * C + channel, inside).to(tl.float32)
    tl.store(out + row * C + channel, _gelu(value), inside)


def shared_gelu(x: torch.Tensor, bias: torch.Tensor, shared: SharedMaps) -> torch.Tensor:
    rows, block_rows, channels = _tiling(x)
    x = x.contiguous(memory_format=torch.channels_last)
    maps, index = map_rows(shared, x)
    out = torch.empty_like(x)
    _shared_gelu_kernel[(triton.cdiv(rows, block_rows),)](
        x, bias, maps, index, out, rows, x.shape[2] * x.shape[3], C=channels, ROWS=block_rows
    )
    return out


@triton.jit
def shifted_norm(
    x,
    shift,
    shift_edge,
    shift_y,
    shift_x,
    row,
    channel,
    inside,
    height,
    width,
    eps,
    C: tl.constexpr,
):
    """Rows of x + shift with mean 0 and variance 1, and 1 / deviation."""
    edge = row // (height * width)
    y = row // width % height
    column = row % width
    # 0 at the first line, 2 at the last, 1 between them
    class_y = tl.where(y == 0, 0, tl.where(y == height - 1, 2, 1))
    class_x = tl.where(column == 0, 0, tl.where(column == width - 1, 2, 1))
    at = edge * shift_edge + class_y * shift_y + class_x * shift_x + channel
    value = tl.load(x + row * C + channel, inside, 0.0).to(tl.float32)
    value += tl.load(shift + at, inside, 0.0).to(tl.float32)
    value -= (tl.sum(value, 1) / C)[:, None]
    inverse = tl.rsqrt(tl.sum(value * value, 1) / C + eps)[:, None]
    return value * inverse, inverse


@triton.jit
def _norm_gelu_kernel(
    x,
    shift,
    shift_edge,
    shift_y,
    shift_x,
    weight,
    bias,
    residual,
    out,
    rows,
    height,
    width,
    eps,
    RESIDUAL: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = tl.arange(0, C)[None, :]
    inside = row < rows
    value, _ = shifted_norm(
        x, shift, shift_edge, shift_y, shift_x, row, channel, inside, height, width, eps, C
    )
    value = value * tl.load(weight + channel).to(tl.float32) + tl.load(bias + channel).to(
        tl.float32
    )
    value = _gelu(value)
    if RESIDUAL:
        value += tl.load(residual + row * C + channel, inside).to(tl.float32)
    tl.store(out + row * C + channel, value, inside)


def norm_gelu(
    x: torch.Tensor,
    shift: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    rows, block_rows, channels = _tiling(x)
    x = x.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    if shift.dim() == 1:
        strides = (0, 0, 0)
    else:  # [E,C,3,3]
        shift = shift.permute(0, 2, 3, 1).contiguous()  # [E,3,3,C]
        strides = shift.stride()[:3]
    _norm_gelu_kernel[(triton.cdiv(rows, block_rows),)](
        x,
        shift,
        *strides,
        weight,
        bias,
        x if residual is None else residual,
        out := torch.empty_like(x),
        rows,
        x.shape[2],
        x.shape[3],
        eps,
        RESIDUAL=residual is not None,
        C=channels,
        ROWS=block_rows,
    )
    return out


@triton.jit
def _image_sums_kernel(
    x,
    mean,
    sums,
    pixels,
    channels: tl.constexpr,
    SQUARES: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)[None, :]
    live = channel < channels
    middle = tl.load(mean + image * channels + channel, live, 0.0) if SQUARES else 0.0
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for step in range(STEPS):
        pixel = (tl.program_id(1) * STEPS + step) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (pixel < pixels) & live
        at = (image * pixels + pixel) * channels + channel
        value = tl.load(x + at, inside, 0.0).to(tl.float32)
        if SQUARES:
            value = tl.where(inside, (value - middle) * (value - middle), 0.0)
        total += value
    piece = image * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + piece * channels + channel, tl.sum(total, 0)[None, :], live)


def _image_means(x: torch.Tensor, mean: torch.Tensor | None) -> torch.Tensor:
    """Mean over the pixels of each image, [B,C], of x or, where a mean is given, of (x - mean)^2."""
    images, channels, height, width = x.shape
    _, block_rows, block_channels = _tiling(x)
    pieces = triton.cdiv(height * width, block_rows * _STEPS)
    sums = torch.empty(images, pieces, channels, dtype=torch.float32, device=x.device)
    _image_sums_kernel[(images, pieces)](
        *(x, sums if mean is None else mean, sums, height * width, channels),
        SQUARES=mean is not None,
        ROWS=block_rows,
        STEPS=_STEPS,
        CHANNELS=block_channels,
    )
    return sums.sum(1) / (height * width)


@triton.jit
def _instance_norm_kernel(
    x,
    mean,
    inverse,
    out,
    rows,
    pixels,
    channels: tl.constexpr,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = tl.arange(0, CHANNELS)[None, :]
    inside = (row < rows) & (channel < channels)
    of_image = row // pixels * channels + channel
    value = tl.load(x + row * channels + channel, inside).to(tl.float32)
    value -= tl.load(mean + of_image, inside)
    value *= tl.load(inverse + of_image, inside)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(out + row * channels + channel, value, inside)


def instance_moments(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each channel of each image, ``x`` in rows: mean and 1 / deviation, float32 [B,C]."""
    mean = _image_means(x, None)
    return mean, torch.rsqrt(_image_means(x, mean) + eps)


def normalised(
    x: torch.Tensor, mean: torch.Tensor, inverse: torch.Tensor, relu: bool
) -> torch.Tensor:
    """(x - mean) * inverse, ``x`` in rows."""
    rows, block_rows, block_channels = _tiling(x)
    _instance_norm_kernel[(triton.cdiv(rows, block_rows),)](
        *(x, mean, inverse, out := torch.empty_like(x), rows, x.shape[2] * x.shape[3], x.shape[1]),
        RELU=relu,
        ROWS=block_rows,
        CHANNELS=block_channels,
    )
    return out


def instance_norm(x: torch.Tensor, eps: float, relu: bool) -> torch.Tensor:
    x = pixel_rows(x)
    return normalised(x, *instance_moments(x, eps), relu)


@triton.jit
def _window_kernel(
    volume,
    coords,
    out,
    out_row,
    count,
    pixels,
    edge_stride,
    pixel_stride,
    rows,
    columns,
    scale,
    RADIUS: tl.constexpr,
    PADDING: tl.constexpr,
    TAPS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    window: tl.constexpr = 2 * RADIUS + 1
    pixel = (tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS))[:, None]
    tap = tl.arange(0, TAPS)[None, :]
    live = (pixel < count) & (tap < window * window)
    x = tl.load(coords + 2 * pixel, pixel < count, 0.0) * scale
    y = tl.load(coords + 2 * pixel + 1, pixel < count, 0.0) * scale
    left = tl.floor(x)
    top = tl.floor(y)
    dx = x - left
    dy = y - top
    # Far outside the image a float no longer fits an integer: those places read zeros anyway.
    u = tl.clamp(left, -1e6, 1e6).to(tl.int32) + tap // window - RADIUS
    v = tl.clamp(top, -1e6, 1e6).to(tl.int32) + tap % window - RADIUS
    # Between images, too, where there is a gap behind each pixel's values.
    at = volume + pixel // pixels * edge_stride + pixel % pixels * pixel_stride + v * columns + u
    in_u = (u >= 0) & (u < columns) & live
    in_u1 = (u >= -1) & (u < columns - 1) & live
    in_v = (v >= 0) & (v < rows)
    in_v1 = (v >= -1) & (v < rows - 1)
    value = (1 - dx) * (1 - dy) * tl.load(at, in_u & in_v, 0.0).to(tl.float32)
    value += dx * (1 - dy) * tl.load(at + 1, in_u1 & in_v, 0.0).to(tl.float32)
    value += (1 - dx) * dy * tl.load(at + columns, in_u & in_v1, 0.0).to(tl.float32)
    value += dx * dy * tl.load(at + columns + 1, in_u1 & in_v1, 0.0).to(tl.float32)
    # Nothing was loaded beyond the window: zeros.
    written = (pixel < count) & (tap < window * window + PADDING)
    tl.store(out + pixel * out_row + tap, value, written)


def _pixels_in_a_row(volume: torch.Tensor) -> torch.Tensor:
    """[E,h,w,a,b], each pixel's values in one piece, and the pixels of an edge at equal distances."""
    pixel, row, value = volume.stride()[2:]
    even = volume.stride(1) == volume.shape[2] * pixel
    whole = value == 1 and row == volume.shape[4]
    return volume if even and whole else volume.contiguous()


def lookup_windows(
    levels: list[torch.Tensor], coords: torch.Tensor, radius: int, padding: int = 0
) -> torch.Tensor:
    edges, height, width = coords.shape[:3]
    taps = (2 * radius + 1) ** 2
    out = levels[0].new_empty(edges, height, width, len(levels) * taps + padding)
    count = edges * height * width
    coords = coords.float().contiguous()
    for level, volume in enumerate(levels):
        volume = _pixels_in_a_row(volume)
        padded = padding if level == len(levels) - 1 else 0
        _window_kernel[(triton.cdiv(count, _PIXELS_AT_ONCE),)](
            volume,
            coords,
            out[..., level * taps :],
            out.stride(2),
            count,
            height * width,
            volume.stride(0),
            volume.stride(2),
            volume.shape[3],
            volume.shape[4],
            0.5**level,
            RADIUS=radius,
            PADDING=padded,
            TAPS=triton.next_power_of_2(taps + padded),
            PIXELS=_PIXELS_AT_ONCE,
        )
    return out.permute(0, 3, 1, 2)  # [E,levels*taps+padding,h,w]
