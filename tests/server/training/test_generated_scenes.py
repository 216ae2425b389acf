"""Generated scenes are what they claim: depth, flow and pictures belong together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from megasam_server.flow.consistency import warp
from megasam_server.training.filming import flow, photograph, pixel_rays, view
from megasam_server.training.flow_pairs import generate
from megasam_server.training.random_scenes import MAKES, Draw, random_filming, random_scene
from megasam_server.training.scene import FARTHEST, cast, gather_maps

HEIGHT, WIDTH, CLIPS = 48, 64, 3


def set_up(make: str, seed: int = 7, step_px: float = 6.0):
    draw = Draw(CLIPS, torch.Generator().manual_seed(seed))
    scene = random_scene(make, 12, draw)
    step = torch.full((CLIPS,), step_px)
    return scene, random_filming(make, HEIGHT, WIDTH, step, draw), draw


def moment(time: float) -> torch.Tensor:
    return torch.full((CLIPS,), time)


@pytest.mark.parametrize("make", MAKES)
def test_hits_lie_on_their_rays_and_on_their_surfaces(make):
    scene, filming, _ = set_up(make)
    maps = scene.world_from_surface(moment(1.0))
    origin, direction = pixel_rays(filming, moment(1.0), torch.zeros(CLIPS, 2))
    hits = cast(scene, maps, origin, direction)
    world = (gather_maps(maps, hits.surface) @ hits.local[..., None])[..., 0]
    seen = hits.distance < FARTHEST
    on_ray = origin + hits.distance[..., None] * direction
    assert torch.allclose(world[seen], on_ray[seen], rtol=1e-4, atol=1e-3)
    on_quad = hits.surface < scene.quads.body.shape[1]
    assert on_quad.any()
    assert hits.local[on_quad][:, 2].abs().max() < 1e-3
    on_ball = seen & ~on_quad & (hits.surface < scene.surface_count)
    assert (hits.local[on_ball][:, :3].norm(dim=-1) - 1).abs().max() < 1e-2
    if scene.terrain is not None:
        on_ground = hits.surface == scene.surface_count
        assert on_ground.any()
        height = scene.terrain.above(on_ray)
        # The march ends within its last bisected interval.
        assert (height[on_ground].abs() < 0.02 * hits.distance[on_ground]).all()


@pytest.mark.parametrize("make", MAKES)
def test_flow_of_a_world_that_stands_still_is_what_depth_and_pose_induce(make):
    scene, filming, _ = set_up(make)
    scene = replace(scene, quads=still(scene.quads), balls=still(scene.balls))
    source, target = view(scene, filming, moment(0.0)), view(scene, filming, moment(2.0))
    moved, in_front = flow(filming, source, target)
    # Written again from the pinhole equations, in double precision.
    depth = source.depth.double()
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    pixel = torch.stack([x, y], -1).double()  # [H,W,2]
    for clip in range(CLIPS):
        centre = filming.principal[clip].double()
        flat = (pixel - centre) / source.focal[clip].double()
        points = torch.cat([flat, torch.ones_like(flat[..., :1])], -1) * depth[clip][..., None]
        first, second = (filming.world_from_camera(moment(t))[clip].double() for t in (0.0, 2.0))
        world = points @ first[:, :3].T + first[:, 3]
        camera = (world - second[:, 3]) @ second[:, :3]
        at = camera[..., :2] / camera[..., 2:] * target.focal[clip].double() + centre
        expected = at - pixel
        some = in_front[clip] & (source.depth[clip] < FARTHEST) & (camera[..., 2] > 0.1)
        found = moved[clip].permute(1, 2, 0).double()
        assert some.any()
        error = (found - expected)[some].norm(dim=-1)
        assert error.max() < 0.02 + 1e-3 * expected[some].norm(dim=-1).max()


def still(surfaces):
    return replace(surfaces, body=torch.zeros_like(surfaces.body))


def test_the_sky_turns_with_the_camera_and_does_not_shift():
    scene, filming, _ = set_up("country", step_px=3.0)
    source = view(scene, filming, moment(0.0))
    sky = source.depth >= FARTHEST
    assert sky.any()
    halted = replace(
        filming.camera, velocity=filming.camera.velocity * 0, sway=filming.camera.sway * 0
    )
    turning_only = replace(filming, camera=halted)
    with_travel, _ = flow(filming, source, view(scene, filming, moment(1.0)))
    without, _ = flow(turning_only, source, view(scene, turning_only, moment(1.0)))
    both = sky[:, None].expand_as(without)
    assert torch.allclose(with_travel[both], without[both], atol=1e-3)


def test_movers_move_and_the_picture_follows_the_flow(bank):
    scene, filming, draw = set_up("clutter", seed=11, step_px=2.0)
    filming = replace(filming, shutter=filming.shutter * 0)
    times = moment(0.0), moment(1.0)
    first, second = (
        photograph(scene, filming, bank, time, 4, False, draw.generator) for time in times
    )
    views = [view(scene, filming, time) for time in times]
    moved, _ = flow(filming, *views)
    followed = (warp(second, moved) - first).abs().median()
    unmoved = (second - first).abs().median()
    assert followed < 0.6 * unmoved
    world = torch.zeros(CLIPS, 2, dtype=torch.int64)  # which carries ground and sky
    bodies = torch.cat([scene.quads.body, scene.balls.body, world], 1)
    assert (bodies.gather(1, views[0].hits.surface) > 0).any()


def test_the_same_seed_gives_the_same_pairs_and_another_gives_others(bank):
    one, again = (generate(bank, 5, 1, HEIGHT, WIDTH) for _ in range(2))
    assert torch.equal(one.first, again.first)
    assert torch.equal(one.flow, again.flow)
    assert not torch.equal(one.first, generate(bank, 8, 1, HEIGHT, WIDTH).first)
    assert one.first.dtype == torch.uint8
    assert one.first.float().std() > 5
    assert one.valid.float().mean() > 0.5
    # Pair (0,1) forwards and pair (1,0) backwards are there, and differ.
    assert len(one.flow) == 6
