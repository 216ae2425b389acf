"""A made-up solve, and what tests ask about the scene it is applied to."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_maya.shot import SolvedShot, read_shot

from tests.fake_maya.projection import project
from tests.fake_maya.scene import Node, Scene
from tests.maya.scene.made_up_solve import HEIGHT, WIDTH, MadeUpSolve, make_up_solve


@pytest.fixture
def solve(tmp_path) -> MadeUpSolve:
    return make_up_solve(tmp_path / "results")


@pytest.fixture
def shot(solve) -> SolvedShot:
    return read_shot(solve.folder, solve.plate)


def node_of(scene: Scene, uuid: str) -> Node:
    (found,) = scene.find(uuid)
    return found


def reprojection_error(
    scene: Scene,
    camera_shape: str,
    solve: MadeUpSolve,
    cm_per_unit: float = 100.0,
    frame_offset: int = 0,
    placed=lambda points: points,
) -> float:
    """Largest distance in plate pixels between where the Maya camera and the true one see points.

    Args:
        placed: what levelling did to world points [P,3] in cm.
    """
    shape = node_of(scene, camera_shape)
    in_maya = placed(solve.points * (1, -1, -1) * cm_per_unit)
    worst = 0.0
    for index, number in enumerate(solve.frames):
        in_cam = np.linalg.inv(solve.world_from_cam[index])
        depth = solve.points @ in_cam[2, :3] + in_cam[2, 3]
        seen = depth > 0.5
        assert seen.any()
        pixels = project(scene, shape, in_maya[seen], WIDTH, HEIGHT, number + frame_offset)
        worst = max(worst, float(np.abs(pixels - solve.pixels(index)[seen]).max()))
    return worst
