"""The level tab in the stand-in for Maya: select, press, undo."""

from __future__ import annotations

import math

import numpy as np
import pytest
from megasam_maya.scene.apply import ApplyOptions, apply_shot
from megasam_maya.scene.picked import picked_solve
from megasam_maya.ui.level_panel import LevelPanel
from megasam_shared.errors import MegasamError

from tests.fake_maya.matrices import world_matrix
from tests.maya.scene.conftest import node_of, shot, solve  # noqa: F401


@pytest.fixture
def panel(qtbot, host):
    panel = LevelPanel(host)
    qtbot.addWidget(panel)
    panel.said = []
    panel.told.connect(panel.said.append)
    panel.failed.connect(panel.said.append)
    return panel


@pytest.fixture
def made(host, shot):  # noqa: F811
    return apply_shot(shot, ApplyOptions(), host)


def points_of(cmds, made, *numbers: int) -> list[str]:
    group = cmds.ls(made.points, long=True)[0]
    return [f"{group}|sh010_point_{number:03d}" for number in numbers]


def test_each_tool_works_on_the_selection_and_is_one_undo_step(panel, maya, cmds, made):
    before = maya.snapshot()
    steps = len(maya.undo_names)
    floor = points_of(cmds, made, 1, 5, 9, 12)
    cmds.select([*floor[:3], made.camera_path], replace=True)
    panel.ground.click()
    assert panel.said.pop() == "The plane through 3 points is the floor."
    heights = [world_matrix(maya, maya.node(name))[3, 1] for name in floor[:3]]
    np.testing.assert_allclose(heights, 0, atol=1e-6)
    cmds.select(floor[:2], replace=True)
    panel.distance.setValue(320)
    panel.scale.click()
    first, second = (world_matrix(maya, maya.node(name))[3, :3] for name in floor[:2])
    assert math.dist(first, second) == pytest.approx(320)
    cmds.select(floor[3], replace=True)
    panel.origin.click()
    np.testing.assert_allclose(world_matrix(maya, maya.node(floor[3]))[3, :3], 0, atol=1e-6)
    cmds.currentTime(1010)
    panel.horizon.click()
    assert panel.said.pop() == "The camera does not roll at frame 1010."
    panel.bake.click()
    np.testing.assert_allclose(world_matrix(maya, node_of(maya, made.group)), np.eye(4), atol=1e-12)
    tools = [name for name in maya.undo_names[steps:] if name.startswith("MegaSAM")]
    assert len(tools) == 5
    for _ in maya.undo_names[steps:]:
        cmds.undo()
    assert maya.snapshot() | {"units": None} == before | {"units": None}


def test_a_wrong_selection_is_said_and_nothing_moves(panel, maya, cmds, made):
    cmds.select(points_of(cmds, made, 1, 2), replace=True)
    before = maya.snapshot()
    for button, code in (
        (panel.ground, "too_few_points"),
        (panel.origin, "wrong_selection"),
    ):
        button.click()
        assert panel.said.pop().code == code
    cmds.select(clear=True)
    panel.scale.click()
    assert panel.said.pop().code == "wrong_selection"
    assert maya.snapshot() | {"selection": None} == before | {"selection": None}


def test_which_of_two_solves_is_meant(maya, host, cmds, shot, made):  # noqa: F811
    assert picked_solve(host) == made.camera_path
    other = apply_shot(shot, ApplyOptions(name="other"), host)
    cmds.select(clear=True)
    with pytest.raises(MegasamError) as caught:
        picked_solve(host)
    assert caught.value.code == "no_solve_picked"
    cmds.select(points_of(cmds, made, 3), replace=True)
    assert picked_solve(host) == made.camera_path
    cmds.select([other.camera_path, *points_of(cmds, made, 3)], replace=True)
    assert picked_solve(host) == other.camera_path
    cmds.delete(cmds.ls(made.group, long=True)[0], cmds.ls(other.group, long=True)[0])
    with pytest.raises(MegasamError) as caught:
        picked_solve(host)
    assert caught.value.code == "no_solve_in_scene"
