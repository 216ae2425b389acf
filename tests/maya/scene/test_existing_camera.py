"""An artist's camera: taken as it is where that works, else said why not, with nothing touched."""

from __future__ import annotations

import pytest
from megasam_maya.scene.apply import ApplyOptions, apply_shot
from megasam_shared.errors import MegasamError

from tests.maya.scene.conftest import node_of, reprojection_error

MOST_PIXELS = 0.01


@pytest.fixture
def shot_camera(cmds) -> str:
    transform, _ = cmds.camera(name="shotcam")
    return transform


def test_an_artists_camera_is_made_plain_keyed_and_moved_into_the_group(
    maya, host, cmds, solve, shot, shot_camera
):
    shape = f"{shot_camera}Shape"
    cmds.setAttr(f"{shot_camera}.rotateOrder", 1)
    cmds.setAttr(f"{shot_camera}.scale", 2, 2, 2, type="double3")
    cmds.setAttr(f"{shot_camera}.rotatePivot", 1, 2, 3, type="double3")
    cmds.setAttr(f"{shape}.lensSqueezeRatio", 2)
    cmds.setAttr(f"{shape}.filmFit", 2)
    for frame in (1, 1010, 2000):
        cmds.setKeyframe(f"{shot_camera}.translateX", time=frame, value=frame)
        cmds.setKeyframe(f"{shape}.focalLength", time=frame, value=50)
        cmds.setKeyframe(f"{shape}.horizontalFilmOffset", time=frame, value=0.1)
        # Plain at the current frame, and not at others.
        cmds.setKeyframe(f"{shape}.preScale", time=frame, value=max(1, frame / 1000))
    uuid = cmds.ls(shot_camera, uuid=True)[0]
    before = maya.snapshot()
    made = apply_shot(shot, ApplyOptions(camera=shot_camera, lock=False), host)
    assert made.camera == uuid and made.replaced
    assert made.camera_path == "|sh010_solve_grp|shotcam"
    assert reprojection_error(maya, made.camera_shape, solve) < MOST_PIXELS
    assert node_of(maya, uuid).locked == set()
    assert len(cmds.ls("shotcam_*")) + len(cmds.ls("sh010*Curve*")) == 6, (
        "curves of before are gone"
    )
    cmds.undo()
    assert maya.snapshot() == before


def test_it_may_be_named_by_shape_path_or_uuid(maya, host, cmds, solve, shot, shot_camera):
    for name in (f"{shot_camera}Shape", f"|{shot_camera}", cmds.ls(shot_camera, uuid=True)[0]):
        made = apply_shot(shot, ApplyOptions(camera=name), host)
        assert reprojection_error(maya, made.camera_shape, solve) < MOST_PIXELS
        cmds.undo()


def test_locked_and_driven_attributes_are_listed_all_of_them(maya, host, cmds, shot, shot_camera):
    shape = f"{shot_camera}Shape"
    cmds.setAttr(f"{shot_camera}.translateX", lock=True)
    cmds.setAttr(f"{shot_camera}.rotate", lock=True)
    cmds.setAttr(f"{shape}.focalLength", lock=True)
    cmds.setAttr(f"{shape}.preScale", 2)
    cmds.setAttr(f"{shape}.preScale", lock=True)
    cmds.setAttr(f"{shape}.postScale", lock=True)  # plain already: no need to write it
    other = cmds.createNode("transform", name="rig")
    adder = cmds.createNode("addDoubleLinear", name="adder")
    cmds.connectAttr(f"{adder}.output", f"{shot_camera}.translateZ")
    cmds.connectAttr(f"{other}.translateX", f"{shape}.farClipPlane")
    before = maya.snapshot()
    with pytest.raises(MegasamError) as caught:
        apply_shot(shot, ApplyOptions(camera=shot_camera), host)
    assert caught.value.code == "attributes_not_writable"
    for said in (
        *("shotcam.translateX is locked", "shotcam.rotateX is locked", "shotcam.rotateZ is locked"),
        *("shotcamShape.focalLength is locked", "shotcamShape.preScale is locked"),
        *("shotcam.translateZ is driven by adder.output", "farClipPlane is driven by rig."),
    ):
        assert said in caught.value.message
    assert "postScale" not in caught.value.message
    assert maya.snapshot() == before


def test_a_whole_connected_translate_is_driven_too(host, cmds, shot, shot_camera):
    rig = cmds.createNode("transform", name="rig")
    cmds.connectAttr(f"{rig}.translate", f"{shot_camera}.translate")
    with pytest.raises(MegasamError, match="translateY is driven by rig.translate"):
        apply_shot(shot, ApplyOptions(camera=shot_camera), host)


def test_a_curve_that_the_artist_uses_elsewhere_stays(maya, host, cmds, shot, shot_camera):
    cmds.setKeyframe(f"{shot_camera}.translateX", time=1, value=5)
    (curve,) = cmds.listConnections(f"{shot_camera}.translateX", source=True, destination=False)
    friend = cmds.createNode("transform", name="friend")
    cmds.connectAttr(f"{curve}.output", f"{friend}.translateX")
    apply_shot(shot, ApplyOptions(camera=shot_camera), host)
    assert cmds.objExists(curve)
    assert cmds.listConnections(f"{friend}.translateX") == [curve]


def test_cameras_that_cannot_be_taken(maya, host, cmds, shot, shot_camera):
    def code_of(camera: str) -> str:
        before = maya.snapshot()
        with pytest.raises(MegasamError) as caught:
            apply_shot(shot, ApplyOptions(camera=camera), host)
        assert maya.snapshot() == before
        return caught.value.code

    assert code_of("persp") == "camera_is_mayas"
    assert code_of("nobody") == "node_not_found"
    assert code_of(cmds.createNode("transform", name="empty")) == "not_a_camera"
    rig = cmds.createNode("transform", name="rig")
    (below,) = cmds.parent(shot_camera, rig, relative=True)
    assert code_of(below) == "camera_has_parent"
    twin, _ = cmds.camera(name="shotcam")
    assert code_of("shotcam") == "node_name_ambiguous"
    maya.node("|shotcam").referenced = True
    assert code_of("|shotcam") == "camera_is_referenced"


def test_locks_of_ours_are_opened_and_only_those(maya, host, cmds, solve, shot):
    made = apply_shot(shot, ApplyOptions(), host)
    with pytest.raises(RuntimeError, match="locked"):
        cmds.setAttr(f"{made.camera_path}.scaleX", 2)
    again = apply_shot(shot, ApplyOptions(camera=made.camera, lock=False), host)
    assert node_of(maya, again.camera).locked == set()
    cmds.setAttr(f"{made.camera_path}.translateX", lock=True)
    with pytest.raises(MegasamError, match="translateX is locked"):
        apply_shot(shot, ApplyOptions(camera=made.camera), host)


def test_renamed_and_moved_out_cameras_are_found_again(maya, host, cmds, solve, shot):
    made = apply_shot(shot, ApplyOptions(), host)
    cmds.rename(made.camera_path, "hero")
    cmds.rename(host.path(made.group), "hero_grp")
    again = apply_shot(shot, ApplyOptions(camera="hero"), host)
    assert again.group == made.group and again.image_plane == made.image_plane
    assert len(cmds.ls(type="imagePlane")) == 2
    assert reprojection_error(maya, again.camera_shape, solve) < MOST_PIXELS


def test_two_applies_lie_beside_each_other(maya, host, cmds, solve, shot):
    first = apply_shot(shot, ApplyOptions(), host)
    second = apply_shot(shot, ApplyOptions(scene_scale=0.01), host)
    assert reprojection_error(maya, first.camera_shape, solve) < MOST_PIXELS
    assert reprojection_error(maya, second.camera_shape, solve, 1.0) < MOST_PIXELS
    ids = [{v for v in vars(made).values() if isinstance(v, str)} for made in (first, second)]
    assert not ids[0] & ids[1]
    again = apply_shot(shot, ApplyOptions(camera=first.camera), host)
    assert again.depth_plane == first.depth_plane


def test_an_image_plane_of_the_artist_stays_and_is_said(maya, host, cmds, shot, shot_camera):
    plane, shape = cmds.imagePlane(camera=f"{shot_camera}Shape", fileName="own.jpg", name="own")
    made = apply_shot(shot, ApplyOptions(camera=shot_camera), host)
    said = {notice.code: notice.message for notice in made.notices}
    assert "ownShape" in said["other_image_planes"]
    assert cmds.getAttr(f"{shape}.imageName") == "own.jpg"
    assert len(cmds.ls(type="imagePlane")) == 3
    again = apply_shot(shot, ApplyOptions(camera=made.camera), host)
    assert [n.code for n in again.notices].count("other_image_planes") == 1


def test_names_are_made_plain(maya, host, shot):
    made = apply_shot(shot, ApplyOptions(name='3d shot:"A"; delete *'), host)
    assert made.camera_path == "|_3d_shot__A___delete___solve_grp|_3d_shot__A___delete___cam"


def test_the_camera_remembers_what_was_solved(maya, host, cmds, solve, shot):
    made = apply_shot(shot, ApplyOptions(), host)
    shape = f"{made.camera_path}|sh010_camShape"
    assert cmds.getAttr(f"{shape}.megasamQuality").startswith("good, RMS 0.42 px")
    assert cmds.getAttr(f"{shape}.megasamResults") == solve.folder.as_posix()
    assert cmds.getAttr(f"{shape}.megasamPlate").endswith("plate/sh010.1001.png")
    assert '"width": 1920' in cmds.getAttr(f"{shape}.megasamIntrinsics")


def test_off_the_main_thread_nothing_happens(maya, host, shot):
    import threading

    caught = []

    def run() -> None:
        try:
            apply_shot(shot, ApplyOptions(), host)
        except Exception as error:
            caught.append(error)

    before = maya.snapshot()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(caught) == 1 and "main thread" in str(caught[0])
    assert maya.snapshot() == before
