"""GPU kernels that form correlations only where they are read.

A window of whole pixels around each place, one larger than what is read of it, holds all that its
bilinear samples are made of. Neighbouring cells go to neighbouring places: the windows of a square
of cells lie in a small box of frame j, and only its pixels are multiplied with these cells. The
volume of all pairs is some 12 times as large at the finest level, and is limited by writing it.

The plain-torch twin is :func:`megasam_server.models.correlation.sample_windows` of the volume.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_TILE = 8  # cells on each side of the square of one program
_TARGETS = 64  # pixels of frame j that are multiplied at a time
_PIXELS_AT_ONCE = 16  # of one program of the blend


def value_bytes(pixels: int, radius: int, itemsize: int) -> int:
    """Memory that :func:`write_windows` takes for each edge of ``pixels`` cells."""
    return pixels * (2 * radius + 2) ** 2 * itemsize


@triton.jit
def _corner(place, scale):
    """The whole pixel before a place, int32."""
    # Far outside the image a float no longer fits an integer: those places read zeros anyway.
    return tl.floor(tl.clamp(place * scale, -1e6, 1e6)).to(tl.int32)


@triton.jit
def _value_kernel(
    source,
    target,
    ii,
    jj,
    coords,
    values,
    source_frame,
    target_frame,
    height,
    width,
    rows,
    columns,
    tiles_across,
    tiles,
    channels: tl.constexpr,
    scale,
    RADIUS: tl.constexpr,
    TILE: tl.constexpr,
    TARGETS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    side: tl.constexpr = 2 * RADIUS + 2
    edge = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    cell = tl.arange(0, TILE * TILE)
    y = tile // tiles_across * TILE + cell // TILE
    x = tile % tiles_across * TILE + cell % TILE
    inside = (y < height) & (x < width)
    pixel = y * width + x
    at = coords + 2 * (edge * height * width + pixel)
    left = _corner(tl.load(at, inside, 0.0), scale) - RADIUS
    top = _corner(tl.load(at + 1, inside, 0.0), scale) - RADIUS

    # The box around all windows that reach into the image.
    sees = inside & (left < columns) & (left > -side) & (top < rows) & (top > -side)
    first_u = tl.maximum(tl.min(tl.where(sees, left, columns), 0), 0)
    first_v = tl.maximum(tl.min(tl.where(sees, top, rows), 0), 0)
    end_u = tl.minimum(tl.max(tl.where(sees, left + side, 0), 0), columns)
    end_v = tl.minimum(tl.max(tl.where(sees, top + side, 0), 0), rows)
    across = tl.maximum(end_u - first_u, 0)
    count = across * tl.maximum(end_v - first_v, 0)

    channel = tl.arange(0, CHANNELS)[None, :]
    source += tl.load(ii + edge) * source_frame
    target += tl.load(jj + edge) * target_frame
    ours = tl.load(
        source + pixel[:, None] * channels + channel,
        inside[:, None] & (channel < channels),
        0.0,
    )
    values += edge * height * width * (side * side)
    place = pixel * (side * side) - top * side - left
    for start in range(0, count, TARGETS):
        k = start + tl.arange(0, TARGETS)
        u = first_u + k % across
        v = first_v + k // across
        theirs = tl.load(
            target + (v * columns + u)[:, None] * channels + channel,
            (k < count)[:, None] & (channel < channels),
            0.0,
        )
        product = tl.dot(ours, tl.trans(theirs), input_precision="ieee")
        a = u[None, :] - left[:, None]
        b = v[None, :] - top[:, None]
        wanted = (a >= 0) & (a < side) & (b >= 0) & (b < side)
        wanted &= sees[:, None] & (k < count)[None, :]
        tl.store(values + place[:, None] + (v * side + u)[None, :], product, wanted)


@triton.jit
def _blend_kernel(
    values,
    coords,
    out,
    out_row,
    count,
    rows,
    columns,
    scale,
    RADIUS: tl.constexpr,
    TAPS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    window: tl.constexpr = 2 * RADIUS + 1
    side: tl.constexpr = window + 1
    pixel = (tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS))[:, None]
    tap = tl.arange(0, TAPS)[None, :]
    live = (pixel < count) & (tap < window * window)
    x = tl.load(coords + 2 * pixel, pixel < count, 0.0)
    y = tl.load(coords + 2 * pixel + 1, pixel < count, 0.0)
    dx = x * scale - tl.floor(x * scale)
    dy = y * scale - tl.floor(y * scale)
    a = tap // window
    b = tap % window
    u = _corner(x, scale) - RADIUS + a
    v = _corner(y, scale) - RADIUS + b
    at = values + pixel * (side * side) + b * side + a
    in_u = (u >= 0) & (u < columns) & live
    in_u1 = (u >= -1) & (u < columns - 1) & live
    in_v = (v >= 0) & (v < rows)
    in_v1 = (v >= -1) & (v < rows - 1)
    # Values outside the image were not written: they are not read either.
    value = (1 - dx) * (1 - dy) * tl.load(at, in_u & in_v, 0.0).to(tl.float32)
    value += dx * (1 - dy) * tl.load(at + 1, in_u1 & in_v, 0.0).to(tl.float32)
    value += (1 - dx) * dy * tl.load(at + side, in_u & in_v1, 0.0).to(tl.float32)
    value += dx * dy * tl.load(at + side + 1, in_u1 & in_v1, 0.0).to(tl.float32)
    tl.store(out + pixel * out_row + tap, value, live)


def write_windows(
    pyramid: list[torch.Tensor],
    sizes: list[tuple[int, int]],
    coords: torch.Tensor,
    ii: torch.Tensor,
    jj: torch.Tensor,
    radius: int,
    out: torch.Tensor,
) -> None:
    """The windows of edges ii -> jj around ``coords``.

    Args:
        pyramid: per level [N,R,C] contiguous, a row of features for each pixel, scaled.
        sizes: per level, height and width; R may be larger than their product.
        coords: [E,h,w,2], E at least 1, at the size of level 0.
        ii, jj: int64 [E], frames.
        out: [E,h,w,levels*W*W] contiguous, W = 2 radius + 1, to be written.
    """
    edges, height, width = coords.shape[:3]
    coords, ii, jj = coords.float().contiguous(), ii.contiguous(), jj.contiguous()
    count, taps = edges * height * width, (2 * radius + 1) ** 2
    across, down = triton.cdiv(width, _TILE), triton.cdiv(height, _TILE)
    source = pyramid[0]
    channels = source.shape[2]
    values = source.new_empty(count, (2 * radius + 2) ** 2)  # of one level after the other
    for level, (target, size) in enumerate(zip(pyramid, sizes, strict=True)):
        _value_kernel[(edges * across * down,)](
            source,
            target,
            ii,
            jj,
            coords,
            values,
            source.stride(0),
            target.stride(0),
            height,
            width,
            *size,
            across,
            across * down,
            channels,
            0.5**level,
            RADIUS=radius,
            TILE=_TILE,
            TARGETS=_TARGETS,
            CHANNELS=max(16, triton.next_power_of_2(channels)),
            num_stages=2,
        )
        _blend_kernel[(triton.cdiv(count, _PIXELS_AT_ONCE),)](
            values,
            coords,
            out[..., level * taps :],
            out.stride(2),
            count,
            *size,
            0.5**level,
            RADIUS=radius,
            TAPS=triton.next_power_of_2(taps),
            PIXELS=_PIXELS_AT_ONCE,
        )
