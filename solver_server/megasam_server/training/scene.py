"""A batch of textured scenes and the casting of rays into them, exact in position at every time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from megasam_server.training.motion import Motion

try:
    from megasam_server.training import ray_kernels
except ImportError:  # no Triton, e.g. on Windows
    ray_kernels = None

QUADS_AT_ONCE = 8
MARCH_STEPS, BISECTIONS = 48, 12
MARCH_FROM, MARCH_TO = 0.3, 400.0
NEAREST = 0.05
FARTHEST = 1e4


@dataclass(frozen=True)
class Surfaces:
    """P surfaces of one kind in each of B scenes.

    Attributes:
        body: which body carries each, int64 [B,P].
        body_from_surface: affine map of its own coordinates, float32 [B,P,3,4].
        texture: int64 [B,P].
        uv_scale, uv_offset: texture periods per unit of surface coordinates, [B,P,2].
    """

    body: Tensor
    body_from_surface: Tensor
    texture: Tensor
    uv_scale: Tensor
    uv_offset: Tensor


@dataclass(frozen=True)
class CutOuts:
    """What is cut out of the last C quads: leaves, or lattices of thin bars.

    Attributes:
        lattice: bool [B,C]; True = bars, False = a leaf.
        bars: bars per half side, [B,C,2]; bar: their share of the period, [B,C].
        wave, phase: amplitudes and phases of the leaf's outline, harmonics 2-5, [B,C,4].
    """

    lattice: Tensor
    bars: Tensor
    bar: Tensor
    wave: Tensor
    phase: Tensor

    def solid(self, x: Tensor, y: Tensor, some: slice) -> Tensor:
        """Where the quads ``some`` of the C are solid, at coordinates [B,c,n] in -1..1."""
        across = torch.frac((x + 1) * self.bars[:, some, 0, None]) < self.bar[:, some, None]
        along = torch.frac((y + 1) * self.bars[:, some, 1, None]) < self.bar[:, some, None]
        angle = torch.atan2(y, x)
        outline = torch.full_like(x, 0.75)
        for k in range(4):
            turned = (k + 2) * angle + self.phase[:, some, k, None]
            outline = outline + self.wave[:, some, k, None] * torch.sin(turned)
        return torch.where(self.lattice[:, some, None], across | along, x.hypot(y) < outline)


@dataclass(frozen=True)
class Terrain:
    """Hills: y = height - sum_k amplitude_k sin(wave_k . (x, z) + phase_k), y points down.

    Attributes:
        height: [B]; amplitude, phase: [B,K]; wave: [B,K,2].
    """

    height: Tensor
    amplitude: Tensor
    wave: Tensor
    phase: Tensor

    def above(self, points: Tensor) -> Tensor:
        """How far points [B,n,3] lie above the ground, vertically: [B,n]."""
        swell = torch.zeros_like(points[..., 0])
        for amplitude, _, angle in self._waves(points):
            swell = swell + amplitude * torch.sin(angle)
        return self.height[:, None] - swell - points[..., 1]

    def normal(self, points: Tensor) -> Tensor:
        """Normals, downwards and of any length, of the ground at points [B,n,3]: [B,n,3]."""
        slope = torch.zeros_like(points)
        slope[..., 1] = 1.0
        for amplitude, wave, angle in self._waves(points):
            slope[..., ::2] += (amplitude * torch.cos(angle))[..., None] * wave
        return slope

    def _waves(self, points: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each of the K: amplitude [B,1], wave [B,1,2] and angle at the points [B,n]."""
        for k in range(self.amplitude.shape[1]):
            wave = self.wave[:, None, k]
            angle = points[..., 0] * wave[..., 0] + points[..., 2] * wave[..., 1]
            yield self.amplitude[:, k, None], wave, angle + self.phase[:, k, None]


@dataclass(frozen=True)
class Scene:
    """B scenes of the same make. World axes: x right, y down, z forward.

    Attributes:
        bodies: body 0 of each scene is the world itself and stays still.
        quads: squares -1..1 in x and y of their coordinates, z = 0; the last C are ``cut_outs``.
        balls: unit spheres in their coordinates, so ellipsoids in the world.
        terrain: hills, or None.
        sky_texture: of the background at infinity, int64 [B].
        ground_texture: of the terrain, int64 [B].
        light: direction towards it, unit [B,3]; ambient: share of light without direction [B].
        haze: colour 0-255 [B,3]; haze_rate: its share grows as 1 - exp(-rate * distance) [B].
    """

    bodies: Motion
    quads: Surfaces
    cut_outs: CutOuts
    balls: Surfaces
    terrain: Terrain | None
    sky_texture: Tensor
    ground_texture: Tensor
    light: Tensor
    ambient: Tensor
    haze: Tensor
    haze_rate: Tensor

    @property
    def surface_count(self) -> int:
        """Quads and balls; the terrain has this index, the sky the next."""
        return self.quads.body.shape[1] + self.balls.body.shape[1]

    def world_from_surface(self, time: Tensor) -> Tensor:
        """Maps of all surfaces at ``time`` [B]; terrain and sky are fixed to the world.

        Returns:
            [B, surface_count + 2, 3, 4].
        """
        world_from_body = self.bodies.world_from_body(time)
        maps = [_carried(world_from_body, part) for part in (self.quads, self.balls)]
        fixed = torch.eye(3, 4, device=time.device).expand(len(time), 2, 3, 4)
        return torch.cat([*maps, fixed], 1)


@dataclass(frozen=True)
class Hits:
    """What rays meet first.

    Attributes:
        distance: in units of the ray's direction vector, float32 [B,n]; FARTHEST for the sky.
        surface: index as in ``Scene.world_from_surface``, int64 [B,n].
        local: homogeneous point in the surface's coordinates [B,n,4]; the last number is 0 for the
            sky, whose points are directions.
    """

    distance: Tensor
    surface: Tensor
    local: Tensor


def _carried(world_from_body: Tensor, part: Surfaces) -> Tensor:
    index = part.body[..., None, None].expand(-1, -1, 3, 4)
    carrier = world_from_body.gather(1, index)  # [B,P,3,4]
    moved = carrier[..., :3] @ part.body_from_surface  # [B,P,3,4]
    return torch.cat([moved[..., :3], moved[..., 3:] + carrier[..., 3:]], -1)


def cast(scene: Scene, world_from_surface: Tensor, origin: Tensor, direction: Tensor) -> Hits:
    """Meet every ray's first surface.

    Args:
        world_from_surface: of ``scene.world_from_surface``.
        origin: where rays start, float32 [B,n,3] or [B,1,3].
        direction: [B,n,3], any length.
    """
    squares, balls = scene.quads.body.shape[1], scene.balls.body.shape[1]
    # inv_ex does not wait for the device.
    surface_from_world, _ = torch.linalg.inv_ex(_square(world_from_surface[:, : squares + balls]))
    if ray_kernels is not None and direction.is_cuda:
        march = (MARCH_STEPS, MARCH_FROM, MARCH_TO)
        given = (scene, surface_from_world, origin, direction)
        return Hits(*ray_kernels.cast(*given, (NEAREST, FARTHEST), march, BISECTIONS))
    return _cast_in_torch(scene, surface_from_world, origin, direction)


def _cast_in_torch(
    scene: Scene, surface_from_world: Tensor, origin: Tensor, direction: Tensor
) -> Hits:
    """:func:`cast` without kernel."""
    squares, balls = scene.quads.body.shape[1], scene.balls.body.shape[1]
    distance = torch.full_like(direction[..., 0], FARTHEST)
    surface = torch.full_like(distance, squares + balls + 1, dtype=torch.int64)
    for start in range(0, squares, QUADS_AT_ONCE):
        some = slice(start, min(start + QUADS_AT_ONCE, squares))
        along = _meet_quads(scene, surface_from_world[:, some], origin, direction, some)
        distance, surface = _nearer(distance, surface, along, start)
    if balls:
        along = _meet_balls(surface_from_world[:, squares:], origin, direction)
        distance, surface = _nearer(distance, surface, along, squares)
    if scene.terrain is not None:
        along = _meet_terrain(scene.terrain, origin, direction)
        distance, surface = _nearer(distance, surface, along[:, None], squares + balls)
    missed = distance >= FARTHEST
    points = torch.where(missed[..., None], direction, origin + distance[..., None] * direction)
    homogeneous = torch.cat([points, (~missed)[..., None].float()], -1)  # [B,n,4]
    to_local = torch.cat([surface_from_world[..., :3, :], _fixed(surface_from_world)], 1)
    local = (gather_maps(to_local, surface) @ homogeneous[..., None])[..., 0]  # [B,n,3]
    return Hits(distance, surface, torch.cat([local, homogeneous[..., 3:]], -1))


def gather_maps(maps: Tensor, surface: Tensor) -> Tensor:
    """The map of each ray's surface: [B,P,3,4] and [B,n] -> [B,n,3,4]."""
    batch = torch.arange(len(maps), device=maps.device)[:, None]
    return maps[batch, surface]


def _square(maps: Tensor) -> Tensor:
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], device=maps.device).expand(*maps.shape[:-2], 1, 4)
    return torch.cat([maps, last], -2)


def _fixed(maps: Tensor) -> Tensor:
    return torch.eye(3, 4, device=maps.device).expand(len(maps), 2, 3, 4)


def _nearer(distance: Tensor, surface: Tensor, along: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Replace hits by the nearest of ``along`` [B,c,n], surfaces ``first``..., where nearer."""
    nearest, which = along.min(1)
    closer = nearest < distance
    return torch.where(closer, nearest, distance), torch.where(closer, which + first, surface)


def _to_local(surface_from_world: Tensor, origin: Tensor, direction: Tensor):
    """Ray origins [B,c,n or 1,3] and directions [B,c,n,3] in the coordinates of c surfaces."""
    linear = surface_from_world[..., :3, :3].transpose(-1, -2)  # [B,c,3,3]
    start = origin[:, None] @ linear + surface_from_world[..., None, :3, 3]
    return start, direction[:, None] @ linear


def _meet_quads(
    scene: Scene, surface_from_world: Tensor, origin: Tensor, direction: Tensor, some: slice
) -> Tensor:
    """Distances along the rays to quads, FARTHEST where missed: [B,c,n]."""
    start, way = _to_local(surface_from_world, origin, direction)
    along = -start[..., 2] / way[..., 2]
    x = start[..., 0] + along * way[..., 0]
    y = start[..., 1] + along * way[..., 1]
    hit = (x.abs() < 1) & (y.abs() < 1) & (along > NEAREST)
    cut_from = scene.quads.body.shape[1] - scene.cut_outs.lattice.shape[1]
    if some.stop > cut_from:
        first = max(some.start, cut_from)
        cut = slice(first - some.start, None)
        solid = scene.cut_outs.solid(
            x[:, cut], y[:, cut], slice(first - cut_from, some.stop - cut_from)
        )
        hit = torch.cat([hit[:, : cut.start], hit[:, cut] & solid], 1)
    return along.masked_fill(~hit, FARTHEST)


def _meet_balls(surface_from_world: Tensor, origin: Tensor, direction: Tensor) -> Tensor:
    """Distances along the rays to unit spheres, FARTHEST where missed: [B,c,n]."""
    start, way = _to_local(surface_from_world, origin, direction)
    a = (way * way).sum(-1)
    b = (start * way).sum(-1)
    c = (start * start).sum(-1) - 1.0
    discriminant = b * b - a * c
    along = (-b - discriminant.clamp(min=0).sqrt()) / a
    return along.masked_fill((discriminant <= 0) | (along <= NEAREST), FARTHEST)


def _meet_terrain(terrain: Terrain, origin: Tensor, direction: Tensor) -> Tensor:
    """Distance along the rays to the hills, found by geometric steps and bisection: [B,n]."""
    near = torch.full_like(direction[..., 0], FARTHEST)
    far = near.clone()
    found = torch.zeros_like(near, dtype=torch.bool)
    length = direction.norm(dim=-1)
    previous = torch.full_like(near, NEAREST)
    for k in range(MARCH_STEPS):
        reach = MARCH_FROM * (MARCH_TO / MARCH_FROM) ** (k / (MARCH_STEPS - 1)) / length
        below = terrain.above(origin + reach[..., None] * direction) < 0
        first = below & ~found
        near = torch.where(first, previous, near)
        far = torch.where(first, reach, far)
        found |= below
        previous = reach
    for _ in range(BISECTIONS):
        middle = 0.5 * (near + far)
        below = terrain.above(origin + middle[..., None] * direction) < 0
        near, far = torch.where(below, near, middle), torch.where(below, middle, far)
    return far.masked_fill(~found, FARTHEST)
