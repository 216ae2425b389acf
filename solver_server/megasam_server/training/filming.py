"""Pictures of a scene, and the exact depth and optical flow behind them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megasam_server.geometry.projective import pixel_grid
from megasam_server.training.motion import Motion
from megasam_server.training.scene import Hits, Scene, cast, gather_maps
from megasam_server.training.texture_bank import TextureBank

SKY_PERIODS = 3  # whole periods around the horizon, so that there is no seam
GROUND_PERIODS = 0.2  # per unit of length
SHADOW_LIFT = 1e-3


@dataclass(frozen=True)
class Filming:
    """Pinhole cameras that film B scenes; pixel centres at integers.

    Attributes:
        camera: one moving body per scene; its axes are OpenCV's (x right, y down, z forward).
        focal: pixels, at time 0, [B]; zoom: change of log(focal) per frame [B].
        principal: [B,2] pixels.
        shutter: open share of a frame, [B]; exposure is centred on the frame's time.
        height, width: pixels.
    """

    camera: Motion
    focal: Tensor
    zoom: Tensor
    principal: Tensor
    shutter: Tensor
    height: int
    width: int

    def focal_at(self, time: Tensor) -> Tensor:
        """Pixels [B]."""
        return self.focal * torch.exp(self.zoom * time)

    def world_from_camera(self, time: Tensor) -> Tensor:
        """[B,3,4]."""
        return self.camera.world_from_body(time)[:, 0]


@dataclass(frozen=True)
class View:
    """The geometry of one instant, for every pixel centre.

    Attributes:
        hits: n = height * width, row by row.
        depth: z-depth, float32 [B,H,W]; huge for the sky.
        world_from_surface: [B,P,3,4]; camera_from_world: [B,3,4]; focal [B].
    """

    hits: Hits
    depth: Tensor
    world_from_surface: Tensor
    camera_from_world: Tensor
    focal: Tensor


def pixel_rays(filming: Filming, time: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Origins [B,1,3] and directions [B,HW,3] (z-depth 1) of the rays through all pixels.

    Args:
        time: [B]; offset: from the pixel centres, pixels, [B,2].
    """
    pixel = pixel_grid(filming.height, filming.width, torch.float32, time.device)  # [H,W,2]
    shifted = pixel.flatten(0, 1) + offset[:, None] - filming.principal[:, None]
    flat = shifted / filming.focal_at(time)[:, None, None]
    in_camera = torch.cat([flat, torch.ones_like(flat[..., :1])], -1)  # [B,HW,3]
    pose = filming.world_from_camera(time)
    return pose[:, None, :, 3], in_camera @ pose[:, :, :3].transpose(1, 2)


def view(scene: Scene, filming: Filming, time: Tensor) -> View:
    """Exact geometry at ``time`` [B]."""
    offset = torch.zeros(len(time), 2, device=time.device)
    maps = scene.world_from_surface(time)
    hits = cast(scene, maps, *pixel_rays(filming, time, offset))
    depth = hits.distance.unflatten(1, (filming.height, filming.width))
    pose = filming.world_from_camera(time)
    turned = pose[:, :, :3].transpose(1, 2)
    camera_from_world = torch.cat([turned, -turned @ pose[:, :, 3:]], -1)
    return View(hits, depth, maps, camera_from_world, filming.focal_at(time))


def flow(filming: Filming, source: View, target: View) -> tuple[Tensor, Tensor]:
    """Where the points of ``source`` have gone, seen or not.

    Returns:
        flow in pixels, float32 [B,2,H,W]; and whether the point is in front of the target's
        camera, bool [B,H,W].
    """
    maps = gather_maps(target.world_from_surface, source.hits.surface)  # [B,n,3,4]
    world = (maps @ source.hits.local[..., None])[..., 0]  # [B,n,3]
    linear = target.camera_from_world[:, :, :3].transpose(1, 2)
    shift = target.camera_from_world[:, None, :, 3] * source.hits.local[..., 3:]
    x, y, z = (world @ linear + shift).unbind(-1)
    in_front = z > 0.01
    safe = z.masked_fill(~in_front, 1.0)
    size = (filming.height, filming.width)
    at = torch.stack([x, y], -1) / safe[..., None] * target.focal[:, None, None]
    at = (at + filming.principal[:, None]).unflatten(1, size)  # [B,H,W,2]
    moved = at - pixel_grid(*size, torch.float32, at.device)
    return moved.permute(0, 3, 1, 2), in_front.unflatten(1, size)


def photograph(
    scene: Scene,
    filming: Filming,
    bank: TextureBank,
    time: Tensor,
    samples: int,
    shadows: bool,
    generator: torch.Generator,
) -> Tensor:
    """What the cameras see while the shutter is open.

    Every pixel is the mean of ``samples`` rays, each through its own place in the pixel at its own
    moment: edges are smooth, and what moves is blurred.

    Returns:
        float32 RGB 0-255 [B,3,H,W].
    """
    total = torch.zeros((), device=time.device)
    side = int(samples**0.5 + 0.999)
    moments = torch.randperm(samples, generator=generator, device=time.device)
    for k in range(samples):
        corner = torch.tensor([k % side, k // side], device=time.device)
        jitter = torch.rand(len(time), 2, generator=generator, device=time.device)
        offset = (corner + jitter) / side - 0.5
        moment = time + filming.shutter * ((moments[k] + 0.5) / samples - 0.5)
        total = total + _expose(scene, filming, bank, moment, offset, shadows)
    return (total / samples).permute(0, 3, 1, 2)


def _expose(
    scene: Scene, filming: Filming, bank: TextureBank, time: Tensor, offset: Tensor, shadows: bool
) -> Tensor:
    """One ray per pixel: RGB [B,H,W,3]."""
    maps = scene.world_from_surface(time)
    origin, direction = pixel_rays(filming, time, offset)
    hits = cast(scene, maps, origin, direction)
    uv, texture = _texture_coordinates(scene, hits)
    footprint = _footprint(uv, hits.surface, (filming.height, filming.width))
    colour = bank.sample(texture, uv, footprint)  # [B,n,3]
    lit = (_normals(scene, maps, hits) * scene.light[:, None]).sum(-1).abs()  # [B,n]
    on_sky = hits.surface == scene.surface_count + 1
    if shadows:
        points = origin + hits.distance[..., None] * direction
        toward = scene.light[:, None].expand_as(points)
        lift = SHADOW_LIFT * hits.distance[..., None] * toward
        blocked = cast(scene, maps, points + lift, toward).surface != scene.surface_count + 1
        lit = lit.masked_fill(blocked, 0.0)
    ambient = scene.ambient[:, None]
    shade = (ambient + (1 - ambient) * lit).masked_fill(on_sky, 1.0)
    hidden = 1 - torch.exp(-scene.haze_rate[:, None] * hits.distance.masked_fill(on_sky, 0.0))
    colour = torch.lerp(colour * shade[..., None], scene.haze[:, None], hidden[..., None])
    return colour.unflatten(1, (filming.height, filming.width))


def _texture_coordinates(scene: Scene, hits: Hits) -> tuple[Tensor, Tensor]:
    """Periods [B,n,2] and texture index [B,n] of every hit."""
    quads, balls = scene.quads, scene.balls
    one = torch.ones_like(quads.uv_scale[:, :1])  # [B,1,2]
    ground_and_sky = [GROUND_PERIODS * one, SKY_PERIODS * one]
    scale = torch.cat([quads.uv_scale, balls.uv_scale, *ground_and_sky], 1)
    offset = torch.cat([quads.uv_offset, balls.uv_offset, 0 * one, 0 * one], 1)
    fixed = torch.stack([scene.ground_texture, scene.sky_texture], 1)
    texture = torch.cat([quads.texture, balls.texture, fixed], 1).gather(1, hits.surface)
    index = hits.surface[..., None].expand(-1, -1, 2)
    x, y, z, _ = hits.local.unbind(-1)
    around = torch.atan2(x, z) / (2 * torch.pi)
    up = torch.atan2(y, x.hypot(z)) / torch.pi
    on_quad = hits.surface < quads.body.shape[1]
    on_ground = hits.surface == scene.surface_count
    flat = torch.stack([x, torch.where(on_ground, z, y)], -1)
    curved = torch.stack([around, up], -1)  # balls and sky
    uv = torch.where((on_quad | on_ground)[..., None], flat, curved) * scale.gather(
        1, index
    ) + offset.gather(1, index)
    return uv, texture


def _footprint(uv: Tensor, surface: Tensor, size: tuple[int, int]) -> Tensor:
    """Geometric mean of the steps in ``uv`` to the next pixels on the same surface: [B,n]."""
    grid = uv.unflatten(1, size)  # [B,H,W,2]
    same = surface.unflatten(1, size)
    steps = []
    for axis in (1, 2):
        step = grid.diff(dim=axis)
        step = (step - step.round()).norm(dim=-1)  # a jump of whole periods is a seam
        step = step.masked_fill(same.diff(dim=axis) != 0, 0.0)
        last = step.narrow(axis, step.shape[axis] - 1, 1)
        ahead = torch.cat([step, last], axis)
        behind = torch.cat([step.narrow(axis, 0, 1), step], axis)
        steps.append(torch.where(ahead > 0, ahead, behind))
    return (steps[0] * steps[1]).sqrt().flatten(1)


def _normals(scene: Scene, world_from_surface: Tensor, hits: Hits) -> Tensor:
    """Unit normals in the world, of either side: [B,n,3]."""
    local = hits.local[..., :3]
    upright = torch.zeros_like(local)
    upright[..., 2] = 1.0
    on_quad = (hits.surface < scene.quads.body.shape[1])[..., None]
    normal = torch.where(on_quad, upright, local)
    if scene.terrain is not None:
        on_ground = (hits.surface == scene.surface_count)[..., None]
        normal = torch.where(on_ground, scene.terrain.normal(local), normal)
    # Normals transform with the inverse transpose.
    linear = torch.linalg.inv_ex(world_from_surface[..., :3])[0].transpose(-1, -2)  # [B,P,3,3]
    turned = (gather_maps(linear, hits.surface) * normal[..., None, :]).sum(-1)
    return torch.nn.functional.normalize(turned, dim=-1)
