"""The stand-in refuses what Maya refuses: without that, tests in it would prove nothing."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from megasam_maya.scene.apply import ApplyOptions, apply_shot
from megasam_maya.shot import read_shot

from tests.fake_maya.matrices import world_matrix
from tests.maya.scene.conftest import reprojection_error
from tests.maya.scene.made_up_solve import make_up_solve


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda c: c.createNode("transform", nmae="a"), "Invalid flag 'nmae'"),
        (lambda c: c.createNode("transform", name=3), "flag 'name'"),
        (lambda c: c.createNode("transfrom"), "Unknown object type"),
        (lambda c: c.createNode("mayaUsdProxyShape"), "Unknown object type"),
        (lambda c: c.setAttr("persp.translateW", 1), "No object matches name"),
        (lambda c: c.setAttr("nobody.translateX", 1), "No object matches name"),
        (lambda c: c.setAttr("persp.translate", 1, 2, 3), "Error reading data"),
        (lambda c: c.setAttr("perspShape.filmFit", 4), "minimum or maximum"),
        (lambda c: c.setAttr("persp.translateX", float("nan")), "wants a number"),
        (lambda c: c.setAttr("persp.message", 1), "cannot be set"),
        (lambda c: c.setAttr("time1.outTime", "a", type="string"), "does not fit"),
        (lambda c: c.connectAttr("persp.message", "top.translateX"), "not compatible"),
        (lambda c: c.connectAttr("persp.translateX", "top.message"), "not compatible"),
        (lambda c: c.disconnectAttr("persp.translateX", "top.translateX"), "no connection"),
        (lambda c: c.addAttr("persp", longName="visibility", attributeType="bool"), "exists"),
        (lambda c: c.addAttr("persp", longName="note", attributeType="string"), "unknown"),
        (lambda c: c.imagePlane(camera="persp", fileName="a.png"), "not a camera"),
        (lambda c: c.expression(string="perspShape.filmFit = import os"), "Error occurred"),
        (lambda c: c.expression(string="a->b.frameExtension = frame"), "Error occurred"),
        (lambda c: c.undo(), "no more commands"),
        (lambda c: c.undoInfo(closeChunk=True), "no open undo chunk"),
        (lambda c: c.delete("nobody"), "No object matches"),
        (lambda c: c.loadPlugin("nothing"), "was not found"),
        (lambda c: c.currentUnit(linear="parsec"), "Invalid linear unit"),
    ],
)
def test_mistakes_raise_and_change_nothing(maya, cmds, call, error):
    before = maya.snapshot()
    with pytest.raises((TypeError, RuntimeError, ValueError), match=error):
        call(cmds)
    assert maya.snapshot() == before


def test_names_clash_as_in_maya(maya, cmds):
    group = cmds.createNode("transform", name="group")
    assert cmds.createNode("transform", name="a") == "a"
    assert cmds.createNode("transform", name="a") == "a1"
    assert cmds.createNode("transform", name="p_009") == "p_009"
    assert cmds.createNode("transform", name="p_009") == "p_010"
    assert cmds.createNode("transform", name="a", parent=group) == "group|a"
    assert cmds.createNode("transform", name='b"; x') == "b___x"
    with pytest.raises(ValueError, match="More than one object"):
        cmds.nodeType("a")
    assert cmds.ls("group|a", long=True) == ["|group|a"]
    (uuid,) = cmds.ls("|a", uuid=True)
    cmds.rename("|a", "c")
    assert cmds.ls(uuid, long=True) == ["|c"]
    with pytest.raises(ValueError, match="No object"):
        cmds.nodeType(uuid)  # only ls knows UUIDs


def test_locked_and_connected_attributes_cannot_be_set(cmds):
    cmds.setAttr("persp.translate", lock=True)
    with pytest.raises(RuntimeError, match="locked or connected"):
        cmds.setAttr("persp.translateX", 1)
    cmds.connectAttr("side.translateX", "top.translateX")
    with pytest.raises(RuntimeError, match="locked or connected"):
        cmds.setAttr("top.translateX", 1)
    with pytest.raises(RuntimeError, match="has a connection"):
        cmds.connectAttr("front.translateX", "top.translateX")


def test_working_units_are_for_commands_only(maya, cmds):
    cmds.setAttr("persp.translateX", 250)
    cmds.setAttr("persp.rotateY", 90)
    cmds.currentUnit(linear="m")
    assert cmds.getAttr("persp.translateX") == 2.5
    assert maya.value(maya.node("persp"), "translateX") == 250
    assert maya.value(maya.node("persp"), "rotateY") == pytest.approx(math.pi / 2)
    # Row vectors: the camera's -Z looks along -X after a quarter turn to the left.
    np.testing.assert_allclose(
        -world_matrix(maya, maya.node("persp"))[2, :3], [-1, 0, 0], atol=1e-15
    )


def test_commands_belong_to_the_main_thread(cmds):
    caught = []

    def run() -> None:
        try:
            cmds.ls()
        except RuntimeError as error:
            caught.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(caught) == 1 and "main thread" in caught[0]


@pytest.mark.parametrize(
    "attribute, factor",
    [
        *(("horizontalFilmOffset", -1), ("verticalFilmOffset", -1), ("focalLength", 1.0001)),
        *(("horizontalFilmAperture", 1.0001), ("verticalFilmOffset", 1.01)),
    ],
)
def test_the_measure_sees_small_mistakes_of_a_bake(maya, host, tmp_path, attribute, factor):
    solve = make_up_solve(tmp_path / "r", centre=(1000.25, 500.5))
    made = apply_shot(read_shot(solve.folder), ApplyOptions(), host)
    assert reprojection_error(maya, made.camera_shape, solve) < 1e-3
    shape = maya.find(made.camera_shape)[0]
    shape.values[attribute] *= factor
    assert reprojection_error(maya, made.camera_shape, solve) > 0.05


def test_the_measure_sees_a_key_that_is_off(maya, host, solve, shot):
    made = apply_shot(shot, ApplyOptions(), host)
    camera = maya.find(made.camera)[0]
    for attribute, change in (("translateX", 0.1), ("rotateZ", 1e-4)):
        curve = maya.sources[camera, attribute][0]
        curve.keys[1010] += change
        assert reprojection_error(maya, made.camera_shape, solve) > 0.01
        curve.keys[1010] -= change
    assert reprojection_error(maya, made.camera_shape, solve) < 1e-3
