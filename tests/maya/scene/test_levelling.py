"""Ground plane, horizon, origin, distance: the group moves, keys stay; baking down moves nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from megasam_maya.scene import levelling
from megasam_maya.scene.apply import ApplyOptions, apply_shot
from megasam_maya.shot import read_shot
from megasam_shared.errors import MegasamError

from tests.fake_maya.matrices import world_matrix
from tests.maya.scene.conftest import node_of, reprojection_error
from tests.maya.scene.made_up_solve import make_up_solve

MOST_PIXELS = 0.01


@pytest.fixture(params=["cm", "m"])
def made(request, cmds, host, shot):
    cmds.currentUnit(linear=request.param)
    return apply_shot(shot, ApplyOptions(), host)


def world_of(maya, uuid: str) -> np.ndarray:
    """Matrix for row vectors, cm."""
    return world_matrix(maya, node_of(maya, uuid))


def placed_by(maya, uuid: str):
    """What the node does to world points [P,3] of a solve that was not levelled."""
    matrix = world_of(maya, uuid)
    return lambda points: points @ matrix[:3, :3] + matrix[3, :3]


def keys_of(maya, uuid: str) -> dict:
    camera = node_of(maya, uuid)
    return {
        attribute: dict(source[0].keys)
        for (node, attribute), source in maya.sources.items()
        if node is camera
    }


def a_floor(rng, noise: float) -> np.ndarray:
    """Points on a slanting plane below the camera, cm."""
    flat = np.column_stack(
        [rng.uniform(-300, 300, 9), noise * rng.normal(size=9), rng.uniform(-600, -200, 9)]
    )
    x, z = 0.2, -0.35
    rx = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    rz = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return flat @ (rz @ rx).T + (0, -150, 0)


@pytest.mark.parametrize("noise", [0.0, 3.0])
@pytest.mark.parametrize("flip", [False, True])
def test_ground_plane_becomes_the_floor_under_the_camera(maya, host, solve, made, noise, flip):
    floor = a_floor(np.random.default_rng(1), noise)
    keys = keys_of(maya, made.camera)
    steps = len(maya.undo_names)
    points = [tuple(p) for p in (floor[::-1] if flip else floor)]
    levelling.ground_plane(host, made.camera, points)
    assert len(maya.undo_names) == steps + 1
    on_floor = placed_by(maya, made.group)(floor)
    assert abs(on_floor[:, 1].mean()) < 1e-6
    # The best plane through noisy points has no tilt left.
    tilt = np.linalg.lstsq(
        np.column_stack([on_floor[:, [0, 2]], np.ones(9)]), on_floor[:, 1], rcond=None
    )[0]
    assert np.abs(tilt[:2]).max() < (1e-9 if noise == 0 else 2e-4)
    assert world_of(maya, made.camera)[3, 1] > 50
    assert keys_of(maya, made.camera) == keys
    placed = placed_by(maya, made.group)
    assert reprojection_error(maya, made.camera_shape, solve, placed=placed) < MOST_PIXELS


def test_level_horizon_takes_the_roll_out_at_the_frame(maya, host, cmds, solve, made):
    cmds.setAttr(f"{host.path(made.group)}.rotate", 20, 40, 30, type="double3")
    camera, position_before = node_of(maya, made.camera), None
    position_before = world_matrix(maya, camera, 1012)[3, :3]
    sight_before = world_matrix(maya, camera, 1012)[2, :3]
    assert abs(world_matrix(maya, camera, 1012)[0, 1]) > 0.1
    levelling.level_horizon(host, made.camera, 1012)
    after = world_matrix(maya, camera, 1012)
    assert abs(after[0, 1]) < 1e-12 and after[1, 1] > 0
    np.testing.assert_allclose(after[3, :3], position_before, atol=1e-9)
    np.testing.assert_allclose(after[2, :3], sight_before, atol=1e-12)
    assert maya.current_time == 1.0


def test_origin_and_distance(maya, host, cmds, solve, made):
    group = host.path(made.group)
    cmds.select(f"{group}|sh010_points_grp|sh010_point_003", replace=True)
    (origin,) = host.selected_positions()
    levelling.set_origin(host, made.camera, origin)
    first, second = (
        host.world_position(f"{group}|sh010_points_grp|sh010_point_00{i}") for i in (3, 7)
    )
    assert math.dist(first, (0, 0, 0)) < 1e-9
    levelling.set_distance(host, made.camera, first, second, 250.0)
    again = [host.world_position(f"{group}|sh010_points_grp|sh010_point_00{i}") for i in (3, 7)]
    assert math.dist(*again) == pytest.approx(250.0)
    assert math.dist(again[0], (0, 0, 0)) < 1e-9
    scale = 250.0 / math.dist(first, second)
    assert again[1] == pytest.approx([scale * v for v in second])
    placed = placed_by(maya, made.group)
    assert reprojection_error(maya, made.camera_shape, solve, placed=placed) < MOST_PIXELS


@pytest.mark.parametrize("pivot", [(0, 0, 0), (3, -2, 5)], ids=["origin", "moved-pivot"])
def test_baking_down_moves_nothing_and_is_kept_when_applied_again(
    maya, host, cmds, solve, shot, made, pivot
):
    group = host.path(made.group)
    cmds.setAttr(f"{group}.rotate", 20, 170, -10, type="double3")
    cmds.setAttr(f"{group}.translate", 1, 2, 3, type="double3")
    cmds.setAttr(f"{group}.scale", 1.7, 1.7, 1.7, type="double3")
    for attribute in ("rotatePivot", "scalePivot"):
        cmds.setAttr(f"{group}.{attribute}", *pivot, type="double3")
    placed = placed_by(maya, made.group)
    assert reprojection_error(maya, made.camera_shape, solve, placed=placed) < MOST_PIXELS
    points_before = world_positions(maya, made.points)
    depth = maya.value(node_of(maya, made.image_plane), "depth")
    before = maya.snapshot()

    levelling.bake_down(host, made.camera)
    np.testing.assert_allclose(world_of(maya, made.group), np.eye(4), atol=1e-12)
    assert reprojection_error(maya, made.camera_shape, solve, placed=placed) < MOST_PIXELS
    np.testing.assert_allclose(world_positions(maya, made.points), points_before, atol=1e-6)
    assert maya.value(node_of(maya, made.image_plane), "depth") == pytest.approx(1.7 * depth)
    turns = [maya.value(node_of(maya, made.camera), "rotateY", f) for f in solve.frames]
    assert np.abs(np.diff(turns)).max() < 1
    assert node_of(maya, made.camera).locked == set(
        f"{a}{x}" for a in ("translate", "rotate", "scale") for x in "XYZ"
    )

    again = apply_shot(shot, ApplyOptions(camera=made.camera), host)
    assert reprojection_error(maya, again.camera_shape, solve, placed=placed) < MOST_PIXELS
    np.testing.assert_allclose(world_positions(maya, again.points), points_before, atol=1e-4)
    # At half the scale the scene is half as large, seen from its origin.
    half = apply_shot(shot, ApplyOptions(camera=made.camera, scene_scale=0.5), host)
    np.testing.assert_allclose(world_positions(maya, half.points), points_before / 2, atol=1e-4)

    for _ in range(3):
        cmds.undo()
    assert maya.snapshot() == before


def test_another_scale_keeps_the_levelling_of_the_group(maya, host, cmds, solve, shot, made):
    floor = a_floor(np.random.default_rng(1), 0.0)
    levelling.ground_plane(host, made.camera, [tuple(p) for p in floor])
    points = world_positions(maya, made.points)
    again = apply_shot(shot, ApplyOptions(camera=made.camera, scene_scale=3), host)
    np.testing.assert_allclose(world_positions(maya, again.points), 3 * points, rtol=1e-6)


def world_positions(maya, uuid: str) -> np.ndarray:
    nodes = maya.children(node_of(maya, uuid))
    return np.array([world_matrix(maya, node)[3, :3] for node in nodes])


def test_what_cannot_be_levelled_is_said(maya, host, cmds, tmp_path, made):
    def code_of(tool, *arguments) -> str:
        before = maya.snapshot()
        with pytest.raises(MegasamError) as caught:
            tool(host, *arguments)
        assert maya.snapshot() == before
        return caught.value.code

    line = [(float(i), 2.0 * i, 0.0) for i in range(5)]
    assert code_of(levelling.ground_plane, made.camera, line[:2]) == "too_few_points"
    assert code_of(levelling.ground_plane, made.camera, line) == "points_on_a_line"
    same = (1.0, 2.0, 3.0)
    assert code_of(levelling.set_distance, made.camera, same, same, 5.0) == "distance_invalid"
    assert code_of(levelling.set_origin, "persp", same) == "camera_not_applied"
    assert code_of(levelling.set_origin, "gone", same) == "node_not_found"
    group = host.path(made.group)
    cmds.setAttr(f"{group}.scale", 1, 2, 1, type="double3")
    assert code_of(levelling.bake_down, made.camera) == "transform_is_skewed"
    cmds.setAttr(f"{group}.scale", 1, 1, 1, type="double3")
    cmds.setAttr(f"{group}.translateY", lock=True)
    assert code_of(levelling.set_origin, made.camera, same) == "attributes_not_writable"
    cmds.setAttr(f"{group}.translateY", lock=False)
    cmds.parent(group, cmds.createNode("transform", name="set"), relative=True)
    assert code_of(levelling.set_origin, made.camera, same) == "group_has_parent"


def test_a_shot_straight_down_has_no_horizon(maya, host, cmds, tmp_path):
    solve = make_up_solve(tmp_path / "r", count=2)
    made = apply_shot(read_shot(solve.folder), ApplyOptions(), host)
    cmds.setAttr(f"{host.path(made.group)}.rotate", -90, 0, 0, type="double3")
    with pytest.raises(MegasamError, match="straight up or down"):
        levelling.level_horizon(host, made.camera, 1001)
