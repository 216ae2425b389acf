"""maya_smoke.py itself: its checks of the scene hold in the stand-in, and can fail."""

from __future__ import annotations

import numpy as np
import pytest

from tests import maya_smoke
from tests.fake_maya.projection import project


@pytest.fixture
def shot(tmp_path, monkeypatch):
    monkeypatch.setattr(maya_smoke, "LAST", 1010)
    return maya_smoke.make_shot(tmp_path)


def projection(scene, host, applied):
    shape = scene.node(host.path(applied.camera_shape))

    def through_the_stand_in(point, frame):
        return tuple(project(scene, shape, np.array([point]), 1920, 1080, frame)[0])

    return through_the_stand_in


def test_its_checks_hold(maya, host, cmds, shot):
    before = set(cmds.ls(long=True))
    applied, _ = maya_smoke.check_apply(shot, host)
    maya_smoke.check_undo(before)
    applied, _ = maya_smoke.check_apply(shot, host)
    maya_smoke.check_image_plane(applied, host)
    maya_smoke.check_reprojection(shot, projection(maya, host, applied))


def test_a_wrong_camera_and_a_leftover_fail(maya, host, cmds, shot):
    before = set(cmds.ls(long=True))
    applied, _ = maya_smoke.check_apply(shot, host)
    camera = host.path(applied.camera_shape)
    film = cmds.getAttr(f"{camera}.horizontalFilmOffset")
    cmds.setAttr(f"{camera}.horizontalFilmOffset", film + 1e-4)
    with pytest.raises(AssertionError, match="worst"):
        maya_smoke.check_reprojection(shot, projection(maya, host, applied))
    cmds.setAttr(f"{camera}.horizontalFilmAperture", 1.0)
    with pytest.raises(AssertionError, match="sizeX"):
        maya_smoke.check_image_plane(applied, host)
    with pytest.raises(AssertionError, match="left"):
        maya_smoke.check_undo(before)
