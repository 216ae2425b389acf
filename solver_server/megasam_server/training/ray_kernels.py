"""Casting of rays as one GPU kernel: every ray keeps what it met in registers.

The plain-torch twin, and the meaning of everything, is in :mod:`megasam_server.training.scene`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from megasam_server.training.scene import Scene

_RAYS_AT_ONCE = 256


@triton.jit
def _row(maps, row, x, y, z, w):
    """One row of a map 3x4 times (x, y, z, w)."""
    at = maps + 4 * row
    return tl.load(at) * x + tl.load(at + 1) * y + tl.load(at + 2) * z + tl.load(at + 3) * w


@triton.jit
def _meet_quad(at, ox, oy, oz, dx, dy, dz, nearest):
    """Distance to a square, where in it, and whether it is met at all."""
    along = -_row(at, 2, ox, oy, oz, 1.0) / _row(at, 2, dx, dy, dz, 0.0)
    x = _row(at, 0, ox, oy, oz, 1.0) + along * _row(at, 0, dx, dy, dz, 0.0)
    y = _row(at, 1, ox, oy, oz, 1.0) + along * _row(at, 1, dx, dy, dz, 0.0)
    return along, x, y, (tl.abs(x) < 1) & (tl.abs(y) < 1) & (along > nearest)


@triton.jit
def _part(x):
    return x - tl.floor(x)


@triton.jit
def _solid(cut, lattice, bars, bar, wave, phase, x, y):
    across = _part((x + 1) * tl.load(bars + 2 * cut)) < tl.load(bar + cut)
    along = _part((y + 1) * tl.load(bars + 2 * cut + 1)) < tl.load(bar + cut)
    radius = tl.sqrt(x * x + y * y)
    centre = radius == 0
    cos1 = tl.where(centre, 1.0, x / radius)
    sin1 = tl.where(centre, 0.0, y / radius)
    # Sine and cosine of multiples of the angle, one after the other.
    cos_k, sin_k = cos1, sin1
    outline = tl.zeros_like(x) + 0.75
    for k in tl.static_range(4):
        cos_k, sin_k = cos_k * cos1 - sin_k * sin1, sin_k * cos1 + cos_k * sin1
        turn = tl.load(phase + 4 * cut + k)
        swing = sin_k * tl.cos(turn) + cos_k * tl.sin(turn)
        outline += tl.load(wave + 4 * cut + k) * swing
    return tl.where(tl.load(lattice + cut) != 0, across | along, radius < outline)


@triton.jit
def _above(height, amplitude, wave, phase, x, y, z, WAVES: tl.constexpr):
    swell = tl.zeros_like(x)
    for k in tl.static_range(WAVES):
        angle = x * tl.load(wave + 2 * k) + z * tl.load(wave + 2 * k + 1) + tl.load(phase + k)
        swell += tl.load(amplitude + k) * tl.sin(angle)
    return height - swell - y


@triton.jit
def _cast_kernel(
    maps,
    origin,
    origin_scene,
    origin_ray,
    direction,
    lattice,
    bars,
    bar,
    wave,
    phase,
    hill_height,
    hill_amplitude,
    hill_wave,
    hill_phase,
    distance_out,
    surface_out,
    local_out,
    rays,
    whole,
    squares,
    balls,
    nearest,
    farthest,
    first_reach,
    growth,
    HILLS: tl.constexpr,
    MARCH: tl.constexpr,
    BISECTIONS: tl.constexpr,
    RAYS: tl.constexpr,
):
    scene = tl.program_id(1).to(tl.int64)
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    live = ray < rays
    ray = scene * rays + ray
    of_origin = origin + scene * origin_scene + (ray - scene * rays) * origin_ray
    ox = tl.load(of_origin, live, 0.0)
    oy = tl.load(of_origin + 1, live, 0.0)
    oz = tl.load(of_origin + 2, live, 0.0)
    dx = tl.load(direction + 3 * ray, live, 1.0)
    dy = tl.load(direction + 3 * ray + 1, live, 1.0)
    dz = tl.load(direction + 3 * ray + 2, live, 1.0)
    distance = tl.zeros_like(dx) + farthest
    surface = tl.zeros_like(dx).to(tl.int32) + squares + balls + 1
    maps += scene * (squares + balls) * 12
    for k in range(0, whole):
        along, x, y, hit = _meet_quad(maps + 12 * k, ox, oy, oz, dx, dy, dz, nearest)
        hit = hit & (along < distance)
        distance = tl.where(hit, along, distance)
        surface = tl.where(hit, k, surface)
    for k in range(whole, squares):
        along, x, y, hit = _meet_quad(maps + 12 * k, ox, oy, oz, dx, dy, dz, nearest)
        cut = scene * (squares - whole) + k - whole
        hit = hit & _solid(cut, lattice, bars, bar, wave, phase, x, y) & (along < distance)
        distance = tl.where(hit, along, distance)
        surface = tl.where(hit, k, surface)
    for k in range(squares, squares + balls):
        at = maps + 12 * k
        sx = _row(at, 0, ox, oy, oz, 1.0)
        sy = _row(at, 1, ox, oy, oz, 1.0)
        sz = _row(at, 2, ox, oy, oz, 1.0)
        wx = _row(at, 0, dx, dy, dz, 0.0)
        wy = _row(at, 1, dx, dy, dz, 0.0)
        wz = _row(at, 2, dx, dy, dz, 0.0)
        a = wx * wx + wy * wy + wz * wz
        b = sx * wx + sy * wy + sz * wz
        discriminant = b * b - a * (sx * sx + sy * sy + sz * sz - 1.0)
        along = (-b - tl.sqrt(tl.maximum(discriminant, 0.0))) / a
        hit = (discriminant > 0) & (along > nearest) & (along < distance)
        distance = tl.where(hit, along, distance)
        surface = tl.where(hit, k, surface)
    if HILLS > 0:
        height = tl.load(hill_height + scene)
        hill_amplitude += scene * HILLS
        hill_wave += scene * HILLS * 2
        hill_phase += scene * HILLS
        length = tl.sqrt(dx * dx + dy * dy + dz * dz)
        near = tl.zeros_like(dx) + farthest
        far = near
        found = near < 0
        previous = tl.zeros_like(dx) + nearest
        reach = first_reach / length
        for _ in range(MARCH):
            x, y, z = ox + reach * dx, oy + reach * dy, oz + reach * dz
            depth = _above(height, hill_amplitude, hill_wave, hill_phase, x, y, z, HILLS)
            first = (depth < 0) & (~found)
            near = tl.where(first, previous, near)
            far = tl.where(first, reach, far)
            found = found | first
            previous = reach
            reach = reach * growth
        for _ in range(BISECTIONS):
            middle = 0.5 * (near + far)
            x, y, z = ox + middle * dx, oy + middle * dy, oz + middle * dz
            depth = _above(height, hill_amplitude, hill_wave, hill_phase, x, y, z, HILLS)
            near = tl.where(depth < 0, near, middle)
            far = tl.where(depth < 0, middle, far)
        hit = found & (far < distance)
        distance = tl.where(hit, far, distance)
        surface = tl.where(hit, squares + balls, surface)
    met = distance < farthest
    x = tl.where(met, ox + distance * dx, dx)
    y = tl.where(met, oy + distance * dy, dy)
    z = tl.where(met, oz + distance * dz, dz)
    w = met.to(tl.float32)
    tl.store(distance_out + ray, distance, live)
    tl.store(surface_out + ray, surface.to(tl.int64), live)
    # Terrain and sky are in the world's coordinates.
    own = surface < squares + balls
    at = maps + 12 * tl.where(own, surface, 0)
    tl.store(local_out + 4 * ray, tl.where(own, _row(at, 0, x, y, z, w), x), live)
    tl.store(local_out + 4 * ray + 1, tl.where(own, _row(at, 1, x, y, z, w), y), live)
    tl.store(local_out + 4 * ray + 2, tl.where(own, _row(at, 2, x, y, z, w), z), live)
    tl.store(local_out + 4 * ray + 3, w, live)


def cast(
    scene: Scene,
    surface_from_world: torch.Tensor,
    origin: torch.Tensor,
    direction: torch.Tensor,
    limits: tuple[float, float],
    march: tuple[int, float, float],
    bisections: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distance [B,n], surface [B,n] and local point [B,n,4] of :class:`.scene.Hits`.

    Args:
        surface_from_world: of quads and balls, [B,P,4,4].
        limits: nearest distance that counts, and that of the sky.
        march: towards the terrain: steps, the first distance and the last.
    """
    batch, rays = direction.shape[:2]
    cut, terrain = scene.cut_outs, scene.terrain
    squares, balls = scene.quads.body.shape[1], scene.balls.body.shape[1]
    maps = surface_from_world[:, :, :3].contiguous()
    origin, direction = origin.contiguous(), direction.contiguous()
    distance = direction.new_empty(batch, rays)
    surface = torch.empty_like(distance, dtype=torch.int64)
    local = direction.new_empty(batch, rays, 4)
    steps, first, last = march
    if terrain is None:
        hills, of_hills = 0, (maps, maps, maps, maps)
    else:
        hills = terrain.amplitude.shape[1]
        of_hills = (terrain.height, terrain.amplitude, terrain.wave, terrain.phase)
    _cast_kernel[(triton.cdiv(rays, _RAYS_AT_ONCE), batch)](
        maps,
        origin,
        origin.stride(0),
        origin.stride(1) if origin.shape[1] > 1 else 0,
        direction,
        cut.lattice.to(torch.int8).contiguous(),
        *(x.contiguous() for x in (cut.bars, cut.bar, cut.wave, cut.phase)),
        *(x.contiguous() for x in of_hills),
        distance,
        surface,
        local,
        rays,
        squares - cut.lattice.shape[1],
        squares,
        balls,
        *limits,
        first,
        math.exp(math.log(last / first) / (steps - 1)),
        HILLS=hills,
        MARCH=steps,
        BISECTIONS=bisections,
        RAYS=_RAYS_AT_ONCE,
    )
    return distance, surface, local
