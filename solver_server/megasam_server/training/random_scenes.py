"""Random scenes and the cameras that film them: rooms, open country, and floating clutter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megasam_server.training.filming import Filming
from megasam_server.training.motion import WAVES, look_rotation, rotation_matrix, still
from megasam_server.training.scene import CutOuts, Scene, Surfaces, Terrain

MAKES = ("room", "country", "clutter")
# Half sides: a box is these six squares, each given by its normal axis and sign.
FACES = [(axis, sign) for axis in range(3) for sign in (1.0, -1.0)]


@dataclass(frozen=True)
class Make:
    """How a kind of scene is furnished.

    Attributes:
        boxes, balls, cut_outs: how many.
        movers: bodies that move by themselves; mover_share: of the things that ride on one.
        near, far: things stand between these distances.
        size: of things, relative to their distance, smallest and largest half side.
        reference: typical distance, which sets how fast cameras translate.
    """

    boxes: int
    balls: int
    cut_outs: int
    movers: int
    mover_share: float
    near: float
    far: float
    size: tuple[float, float]
    reference: float


FURNISHING = {
    "room": Make(7, 5, 6, 3, 0.3, 0.8, 6.0, (0.06, 0.35), 3.0),
    "country": Make(8, 8, 8, 4, 0.3, 2.0, 60.0, (0.04, 0.4), 12.0),
    "clutter": Make(6, 8, 12, 12, 0.8, 1.5, 12.0, (0.05, 0.4), 5.0),
}


class Draw:
    """Random numbers of one seeded generator, shaped [batch, ...]."""

    def __init__(self, batch: int, generator: torch.Generator):
        self.batch, self.generator, self.device = batch, generator, generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        unit = torch.rand(self.batch, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * unit

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        bounds = torch.tensor([low, high]).log().tolist()
        return self.uniform(*bounds, *shape).exp()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape, generator=self.generator, device=self.device)

    def unit(self, *shape: int) -> Tensor:
        """Directions [batch,*shape,3]."""
        return torch.nn.functional.normalize(self.normal(*shape, 3), dim=-1)

    def integers(self, high: int, *shape: int) -> Tensor:
        size = (self.batch, *shape)
        return torch.randint(high, size, generator=self.generator, device=self.device)

    def chance(self, share: float, *shape: int) -> Tensor:
        return self.uniform(0, 1, *shape) < share


def random_scene(make: str, textures: int, draw: Draw) -> Scene:
    """One batch of scenes of a make, from ``textures`` pictures."""
    plan = FURNISHING[make]
    boxes = _boxes(draw, plan, grounded=make != "clutter")
    cut_outs = _flats(draw, plan)
    maps = torch.cat([_shell(draw, make), boxes.flatten(1, 2), cut_outs], 1)  # [B,Q,3,4]
    quads = maps.shape[1]
    shells = quads - 6 * plan.boxes - plan.cut_outs
    body = torch.cat(
        [
            torch.zeros(draw.batch, shells, dtype=torch.int64, device=draw.device),
            _riders(draw, plan, plan.boxes).repeat_interleave(6, 1),
            _riders(draw, plan, plan.cut_outs),
        ],
        1,
    )
    # A texture covers what is far with more of its periods, so that all scales occur.
    half_sides = maps[..., :3].norm(dim=-2)[..., :2]  # [B,Q,2]
    period = draw.log_uniform(0.3, 3.0, quads, 1) * maps[..., 3].norm(dim=-1, keepdim=True) / 4
    squares = Surfaces(
        body,
        maps,
        draw.integers(textures, quads),
        (half_sides / period.clamp(min=0.2)).clamp(0.1, 12.0),
        draw.uniform(0, 1, quads, 2),
    )
    balls = Surfaces(
        _riders(draw, plan, plan.balls),
        _ellipsoids(draw, plan),
        draw.integers(textures, plan.balls),
        draw.integers(5, plan.balls, 2).float() + 1.0,
        draw.uniform(0, 1, plan.balls, 2),
    )
    light = draw.unit()
    light[:, 1] = -light[:, 1].abs() - 0.3  # from above: y points down
    return Scene(
        bodies=_bodies(draw, plan),
        quads=squares,
        cut_outs=_outlines(draw, plan.cut_outs),
        balls=balls,
        terrain=_terrain(draw) if make == "country" else None,
        sky_texture=draw.integers(textures),
        ground_texture=draw.integers(textures),
        light=torch.nn.functional.normalize(light, dim=-1),
        ambient=draw.uniform(0.3, 1.0),
        haze=draw.uniform(80, 220, 3),
        haze_rate=draw.chance(0.3) * draw.log_uniform(0.003, 0.05),
    )


def random_filming(make: str, height: int, width: int, step_px: Tensor, draw: Draw) -> Filming:
    """Cameras whose picture moves by about ``step_px`` [B] pixels per frame."""
    plan = FURNISHING[make]
    focal = draw.uniform(0.6, 1.6) * width
    turning = draw.uniform(0, 1) ** 2  # share of the motion that is rotation
    turning = turning.masked_fill(draw.chance(0.15), 1.0)
    angle = turning * step_px / focal
    travel = (1 - turning) * step_px * plan.reference / focal
    heading = draw.unit()
    # Travelling shots mostly run level.
    heading[:, 1] *= 0.4
    spin = draw.unit() * torch.tensor([1.0, 1.0, 0.4], device=draw.device)
    aim = draw.normal(3) * torch.tensor([0.5, 0.25, 0.0], device=draw.device)
    aim[:, 2] = 1.0
    upright = look_rotation(aim) @ rotation_matrix(
        draw.normal(1) * torch.tensor([0.0, 0.0, 0.08], device=draw.device)
    )
    camera = replace(
        still(draw.batch, 1, draw.device),
        velocity=(heading * travel[:, None])[:, None],
        orientation=upright[:, None],
        spin=(spin * angle[:, None])[:, None],
        sway=draw.normal(1, WAVES, 3) * (0.15 * travel)[:, None, None, None],
        wobble=draw.normal(1, WAVES, 3) * (0.15 * angle)[:, None, None, None],
        rate=draw.uniform(0.3, 2.5, 1, WAVES),
        phase=draw.uniform(0, 6.28, 1, WAVES),
    )
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=draw.device)
    zooming = draw.chance(0.15) * draw.normal() * 0.03
    blurred = draw.chance(0.3) * draw.uniform(0.1, 0.5)
    # Longer streaks than these leave nothing to match.
    shutter = torch.minimum(blurred, 12.0 / step_px)
    principal = centre + draw.normal(2) * 0.02 * width
    return Filming(camera, focal, zooming, principal, shutter, height, width)


def _bodies(draw: Draw, plan: Make):
    """The world, and movers whose speed on the picture is about 0.3 to 30 pixels a frame."""
    count = 1 + plan.movers
    alive = torch.ones(1, count, 1, device=draw.device)
    alive[:, 0] = 0.0
    speed = draw.log_uniform(0.0006, 0.06, count, 1) * plan.reference
    spin = draw.log_uniform(0.001, 0.08, count, 1) * draw.chance(0.6, count, 1)
    deforming = draw.chance(0.3, count, 1) * 0.05
    return replace(
        still(draw.batch, count, draw.device),
        velocity=draw.unit(count) * speed * alive,
        spin=draw.unit(count) * spin * alive,
        strain=draw.normal(count, 3) * deforming * alive,
        sway=draw.normal(count, WAVES, 3) * (0.2 * speed * alive)[..., None],
        rate=draw.uniform(0.2, 2.0, count, WAVES),
        phase=draw.uniform(0, 6.28, count, WAVES),
    )


def _riders(draw: Draw, plan: Make, things: int) -> Tensor:
    """The body that carries each thing: 0 (the world) or a mover, [B,things]."""
    mover = draw.integers(plan.movers, things) + 1
    return mover * draw.chance(plan.mover_share, things)


def _places(draw: Draw, plan: Make, things: int) -> tuple[Tensor, Tensor]:
    """Positions in front of the camera [B,things,3], and half sizes [B,things,3]."""
    distance = draw.log_uniform(plan.near, plan.far, things)
    place = torch.stack(
        [
            draw.uniform(-1.1, 1.1, things) * distance,
            draw.uniform(-0.7, 0.7, things) * distance,
            distance,
        ],
        -1,
    )
    size = draw.log_uniform(*plan.size, things, 1) * distance[..., None]
    return place, size * draw.log_uniform(0.4, 1.6, things, 3)


def _affine(linear: Tensor, place: Tensor) -> Tensor:
    return torch.cat([linear, place[..., None]], -1)


def _boxes(draw: Draw, plan: Make, grounded: bool) -> Tensor:
    """Maps of the six faces of each box: [B,boxes,6,3,4]."""
    place, half = _places(draw, plan, plan.boxes)
    tilt = torch.tensor([0.05, 1.0, 0.05] if grounded else [1.0, 1.0, 1.0], device=draw.device)
    linear = rotation_matrix(draw.normal(plan.boxes, 3) * tilt) * half[..., None, :]
    return _faces(_affine(linear, place))


def _faces(boxes: Tensor) -> Tensor:
    """[B,N,3,4] -> [B,N,6,3,4]: maps of squares from the maps of cubes -1..1."""
    faces = []
    for axis, sign in FACES:
        first, second = (axis + 1) % 3, (axis + 2) % 3
        columns = [boxes[..., first], boxes[..., second], boxes[..., axis]]
        centre = boxes[..., 3] + sign * boxes[..., axis]
        faces.append(torch.stack([*columns, centre], -1))
    return torch.stack(faces, 2)


def _flats(draw: Draw, plan: Make) -> Tensor:
    """Maps of free squares that mostly face the camera: [B,cut_outs,3,4]."""
    place, half = _places(draw, plan, plan.cut_outs)
    linear = rotation_matrix(draw.normal(plan.cut_outs, 3) * 0.6) * half[..., None, :] * 1.5
    return _affine(linear, place)


def _ellipsoids(draw: Draw, plan: Make) -> Tensor:
    place, half = _places(draw, plan, plan.balls)
    return _affine(rotation_matrix(draw.normal(plan.balls, 3)) * half[..., None, :], place)


def _shell(draw: Draw, make: str) -> Tensor:
    """What encloses the scene: the six walls of a room, a backdrop, or nothing: [B,S,3,4]."""
    if make == "room":
        half = torch.stack([draw.uniform(2, 6), draw.uniform(1.2, 3), draw.uniform(3, 8)], -1)
        # The camera stands inside, not in the middle.
        place = half * draw.uniform(-0.5, 0.5, 3)
        place[:, 2] += half[:, 2] * 0.4
        linear = torch.diag_embed(half)
        return _faces(_affine(linear, place)[:, None])[:, 0]
    if make == "clutter":
        distance = draw.uniform(8, 25)
        turn = rotation_matrix(draw.normal(1, 3) * 0.3)
        place = torch.stack([distance * 0, distance * 0, distance], -1)[:, None]
        return _affine(turn * (4 * distance)[:, None, None, None], place)
    return torch.zeros(draw.batch, 0, 3, 4, device=draw.device)


def _terrain(draw: Draw) -> Terrain:
    height = draw.uniform(1.0, 3.0)
    wave = draw.unit(4)[..., :2] * draw.log_uniform(0.03, 0.6, 4, 1)
    amplitude = draw.uniform(0.0, 0.25, 4) / (0.3 + 3 * wave.norm(dim=-1)) * height[:, None] / 2
    phase = draw.uniform(0, 6.28, 4)
    # At the camera the ground lies ``height`` below, whatever the hills.
    here = (amplitude * torch.sin(phase)).sum(-1)
    return Terrain(height + here, amplitude, wave, phase)


def _outlines(draw: Draw, count: int) -> CutOuts:
    return CutOuts(
        lattice=draw.chance(0.35, count),
        bars=draw.uniform(0.5, 4.0, count, 2),
        bar=draw.uniform(0.05, 0.35, count),
        wave=draw.normal(count, 4) * 0.1,
        phase=draw.uniform(0, 6.28, count, 4),
    )
