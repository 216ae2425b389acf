"""Apply in the stand-in: what the camera sees, what one undo leaves, what it costs."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from megasam_maya.scene.apply import ApplyOptions, apply_shot
from megasam_maya.shot import read_shot
from megasam_shared.errors import MegasamError

from tests.maya.scene.conftest import node_of, reprojection_error
from tests.maya.scene.made_up_solve import HEIGHT, WIDTH, make_up_solve

MOST_PIXELS = 0.01
CENTRES = [(WIDTH / 2, HEIGHT / 2), (1000.25, 500.5)]


@pytest.mark.parametrize("linear", ["cm", "m"])
@pytest.mark.parametrize("centre", CENTRES, ids=["centred", "off-centre"])
@pytest.mark.parametrize("system", ["maya", "blender", "opencv"])
def test_the_baked_camera_sees_points_where_the_plate_does(
    maya, host, cmds, tmp_path, linear, centre, system
):
    cmds.currentUnit(linear=linear)
    solve = make_up_solve(tmp_path / "r", centre=centre, zoom=True, system=system)
    shot = read_shot(solve.folder, solve.plate)
    made = apply_shot(shot, ApplyOptions(), host)
    assert reprojection_error(maya, made.camera_shape, solve) < MOST_PIXELS

    # Again, at another scale, on other frames, with another film back: the same camera.
    options = ApplyOptions(
        camera=made.camera, scene_scale=0.1, frame_offset=-900, film_back_mm=24.89
    )
    again = apply_shot(shot, options, host)
    assert again.replaced and again.camera == made.camera
    error = reprojection_error(maya, again.camera_shape, solve, 10.0, -900)
    assert error < MOST_PIXELS
    assert cmds.currentUnit(query=True, linear=True) == linear
    assert len(cmds.ls(type="camera")) == 5


@pytest.mark.parametrize("linear", ["cm", "m"])
def test_the_picture_does_not_depend_on_film_fit(maya, host, cmds, tmp_path, linear):
    cmds.currentUnit(linear=linear)
    solve = make_up_solve(tmp_path / "r", centre=CENTRES[1])
    made = apply_shot(read_shot(solve.folder), ApplyOptions(lens_mm=32), host)
    shape = node_of(maya, made.camera_shape)
    assert maya.value(shape, "focalLength") == pytest.approx(32)
    for fit in range(4):
        cmds.setAttr(f"{made.camera_path}|sh010_camShape.filmFit", fit)
        assert reprojection_error(maya, made.camera_shape, solve) < MOST_PIXELS


def test_one_undo_leaves_the_scene_as_it_was(maya, host, cmds, shot):
    kept = cmds.createNode("transform", name="kept")
    cmds.select(kept, replace=True)
    before = maya.snapshot()
    steps = len(maya.undo_names)
    apply_shot(shot, ApplyOptions(playback_range=True), host)
    after = maya.snapshot()
    assert after != before and after["selection"] == before["selection"]
    assert len(maya.undo_names) == steps + 1
    cmds.undo()
    assert maya.snapshot() == before
    cmds.redo()
    assert maya.snapshot() == after


def test_one_undo_takes_back_applying_again(maya, host, cmds, solve, shot):
    made = apply_shot(shot, ApplyOptions(), host)
    before = maya.snapshot()
    options = ApplyOptions(
        camera=made.camera, scene_scale=2, points="none", depth_preview=False, focal="constant"
    )
    again = apply_shot(shot, options, host)
    assert again.points == again.depth_plane == ""
    assert len(cmds.ls(type="locator")) == 0 and len(cmds.ls(type="imagePlane")) == 1
    assert len(cmds.ls(type="expression")) == 1
    cmds.undo()
    assert maya.snapshot() == before
    assert reprojection_error(maya, made.camera_shape, solve) < MOST_PIXELS


@pytest.mark.parametrize("step", ["imagePlane", "addAttr", "expression", "duplicate", "addKeys"])
@pytest.mark.parametrize("undo_on", [True, False], ids=["interactive", "mayapy"])
def test_a_step_that_fails_leaves_the_scene_as_it_was(
    maya, host, cmds, shot, monkeypatch, step, undo_on
):
    cmds.undoInfo(stateWithoutFlush=undo_on)
    before = maya.snapshot()
    steps = list(maya.undo_names)

    def refuse(*_, **__):
        raise RuntimeError("on purpose")

    if step == "addKeys":
        import maya.api.OpenMayaAnim as animation

        monkeypatch.setattr(animation.MFnAnimCurve, "addKeys", refuse)
    else:
        monkeypatch.setattr(cmds, step, refuse)
    with pytest.raises(MegasamError, match="on purpose") as caught:
        apply_shot(shot, ApplyOptions(), host)
    assert caught.value.code == "maya_refused" and "sh010" in caught.value.message
    assert maya.snapshot() == before
    assert maya.undo_names == steps
    assert not maya.refresh_suspended and not maya.chunk_is_open
    assert cmds.undoInfo(query=True, state=True) is undo_on


def test_curves_are_linear_zxy_and_without_jumps(maya, host, shot):
    made = apply_shot(shot, ApplyOptions(), host)
    camera = node_of(maya, made.camera)
    assert maya.value(camera, "rotateOrder") == 2
    for attribute, step in (
        ("translateX", 7),
        ("rotateX", 0.5),
        ("rotateY", 0.5),
        ("rotateZ", 0.5),
    ):
        curve, _ = maya.sources[camera, attribute]
        assert curve.tangents == "linear" and maya.value(curve, "weightedTangents") is False
        assert sorted(curve.keys) == shot.frame_numbers
        values = [curve.keys[frame] for frame in shot.frame_numbers]
        assert np.abs(np.diff(values)).max() < step
    # It pans by more than half a turn.
    assert abs(maya.value(camera, "rotateY", 1024) - maya.value(camera, "rotateY", 1001)) > 3.5


@pytest.mark.parametrize("drive", ["none", "time", "expression"])
@pytest.mark.parametrize("offset", [0, 23, -1000])
def test_image_planes_fill_the_frustum_and_show_the_frame(maya, host, tmp_path, drive, offset):
    maya.image_plane_drive = drive
    solve = make_up_solve(tmp_path / "r", centre=CENTRES[1])
    shot = read_shot(solve.folder, solve.plate)
    made = apply_shot(shot, ApplyOptions(frame_offset=offset), host)
    made = apply_shot(shot, ApplyOptions(frame_offset=offset, camera=made.camera), host)
    shape = node_of(maya, made.camera_shape)
    distances = []
    for plane_id in (made.image_plane, made.depth_plane):
        plane = node_of(maya, plane_id)
        assert maya.value(plane, "fit") == 4
        assert maya.value(plane, "displayOnlyIfCurrent") is True
        assert maya.value(plane, "useFrameExtension") is True
        for axis, side in (("X", "horizontal"), ("Y", "vertical")):
            aperture = maya.value(shape, f"{side}FilmAperture")
            assert maya.value(plane, f"size{axis}") == pytest.approx(aperture)
            film_offset = maya.value(shape, f"{side}FilmOffset")
            assert maya.value(plane, f"offset{axis}") == pytest.approx(film_offset)
            assert film_offset != 0
        distances.append(maya.value(plane, "depth"))
        for frame in (1001, 1013, 1024):
            assert frame_shown(maya, plane, frame + offset).is_file()
            assert f".{frame}." in frame_shown(maya, plane, frame + offset).name
    farthest = 30 * 100
    assert farthest < distances[1] < distances[0] < maya.value(shape, "farClipPlane")
    assert maya.value(shape, "nearClipPlane") < 400
    expressions = [node for node in maya.nodes if node.type == "expression"]
    assert len(expressions) == 2


def frame_shown(maya, plane, time: float) -> Path:
    """The file that a sequence's image plane shows at a time."""
    name = maya.value(plane, "imageName")
    number = maya.value(plane, "frameExtension", time)
    padded = re.sub(r"\.(\d+)\.", lambda m: f".{number:0{len(m[1])}d}.", name)
    return Path(padded)


def test_the_depth_preview_has_a_switch_and_an_opacity(maya, host, cmds, shot):
    made = apply_shot(shot, ApplyOptions(), host)
    plane = node_of(maya, made.depth_plane)
    assert maya.value(plane, "visibility") is False
    cmds.setAttr(f"{made.camera_path}.depthPreview", True)
    cmds.setAttr(f"{made.camera_path}.depthOpacity", 0.25)
    assert maya.value(plane, "visibility") is True
    assert maya.value(plane, "alphaGain") == 0.25
    apply_shot(shot, ApplyOptions(camera=made.camera), host)
    assert maya.value(plane, "alphaGain") == 0.25  # applying again keeps the artist's choice


def test_locators_lie_on_the_best_points_under_the_group(maya, host, cmds, solve, shot):
    cmds.currentUnit(linear="m")
    made = apply_shot(shot, ApplyOptions(max_points=25), host)
    group, points = node_of(maya, made.group), node_of(maya, made.points)
    locators = maya.children(points)
    assert len(locators) == 25 and points.parent is group
    expected = solve.points[:25] * (1, -1, -1) * 100
    actual = [[maya.value(n, f"translate{a}") for a in "XYZ"] for n in locators]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    again = apply_shot(shot, ApplyOptions(max_points=5, camera=made.camera), host)
    assert len(cmds.ls(type="locator")) == 5
    assert node_of(maya, again.points).parent is group


def test_a_solve_that_is_not_usable_needs_insisting(maya, host, tmp_path):
    solve = make_up_solve(tmp_path / "r", usable=False)
    shot = read_shot(solve.folder, solve.plate)
    before = maya.snapshot()
    with pytest.raises(MegasamError) as caught:
        apply_shot(shot, ApplyOptions(), host)
    assert caught.value.code == "shot_not_usable"
    assert "focal length is a guess" in caught.value.message
    assert maya.snapshot() == before
    made = apply_shot(shot, ApplyOptions(insist=True), host)
    assert reprojection_error(maya, made.camera_shape, solve) < MOST_PIXELS


def test_a_thousand_frames_cost_no_call_for_each_key(maya, host, tmp_path, record_property):
    solve = make_up_solve(tmp_path / "r", count=1000, num_points=400, zoom=True, images=False)
    shot = read_shot(solve.folder)
    start = time.perf_counter()
    apply_shot(shot, ApplyOptions(), host)
    seconds = time.perf_counter() - start
    total = sum(maya.calls.values())
    print(f"\n1000 frames, 300 locators: {total} calls of maya.cmds, {seconds:.2f} s")
    print(dict(maya.calls.most_common()))
    record_property("maya_cmds_calls", total)
    record_property("seconds", seconds)
    # Maya has no call that places many locators: one for each.
    assert maya.calls["duplicate"] <= 9
    assert total - 300 < 200
    assert seconds < 5
