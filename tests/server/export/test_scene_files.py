"""Every scene file, read back by something that did not write it, sees what the solve saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import alembic3d
import numpy as np
import pytest
from megasam_server.export.alembic_scene import write_alembic
from megasam_server.export.fbx_ascii import write_fbx_ascii
from megasam_server.export.frame_rate import exact_frame_rate, maya_time_unit
from megasam_server.export.maya_ascii import write_maya_ascii
from megasam_server.export.nuke_chan import write_nuke_chan
from megasam_server.export.scene import CM_PER_UNIT, node_name, scene_from_shot
from megasam_server.export.usd_scene import write_usd
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.pipeline.solved_shot import SolvedShot
from pxr import Gf, Usd, UsdGeom

from tests.server.export.conftest import FIRST_FRAME, HEIGHT, WIDTH, make_shot
from tests.server.export.fbx_ascii_reader import FbxScene
from tests.server.export.maya_ascii_reader import MayaScene

TOLERANCE_PX = 0.01
GAPPED = [1001, 1002, 1004, 1005, 1006, 1010]


@pytest.fixture(params=["zoom, 23.976 fps", "prime, 25 fps", "zoom, 29.97 fps, gaps"])
def any_shot(request, tmp_path) -> SolvedShot:
    return make_shot(
        tmp_path,
        zoom="zoom" in request.param,
        fps={"23": 23.976, "25": 25.0, "29": 29.97}[request.param.split(", ")[1][:2]],
        frame_numbers=GAPPED if "gaps" in request.param else None,
    )


def maya_points(shot: SolvedShot) -> np.ndarray:
    """The solved points in Maya's axes and centimetres, float64 [P,3]."""
    return shot.points.xyz * (CM_PER_UNIT, -CM_PER_UNIT, -CM_PER_UNIT)


def assert_sees_the_same(
    shot: SolvedShot, project: Callable[[np.ndarray, int], np.ndarray]
) -> None:
    """``project(points in cm, frame number)`` agrees with the solve's own cameras in all frames."""
    worst = 0.0
    for index, number in enumerate(shot.plate.frame_numbers):
        expected, _ = shot.cameras.project(shot.points.xyz, np.full(len(shot.points.xyz), index))
        corner = project(maya_points(shot), number)
        worst = max(worst, float(np.abs(corner - (expected + 0.5)).max()))
    assert worst < TOLERANCE_PX


def test_maya_ascii(tmp_path, any_shot):
    write_maya_ascii(tmp_path / "camera.ma", scene_from_shot(any_shot))
    scene = MayaScene(tmp_path / "camera.ma")
    assert_sees_the_same(any_shot, lambda points, f: scene.project(points, f, WIDTH, HEIGHT))

    unit = {25.0: "pal", 23.976: "23.976fps", 29.97: "29.97fps"}[any_shot.plate.fps]
    assert scene.current_unit == ["-l", "centimeter", "-a", "degree", "-t", unit]
    group = "sh010_plate_solve_grp"
    assert scene.nodes["sh010_plate_cam"].parent == group
    locators = [scene.nodes[name].parent for name in scene.named("locator")]
    assert len(locators) == 300
    positions = np.array([scene.world_matrix(name, 1001)[:3, 3] for name in locators])
    distances = np.linalg.norm(positions[:, None] - maya_points(any_shot)[None], axis=2)
    assert distances.min(axis=1).max() < 1e-6


def test_maya_image_plane_covers_the_film_gate(tmp_path, any_shot):
    write_maya_ascii(tmp_path / "camera.ma", scene_from_shot(any_shot))
    scene = MayaScene(tmp_path / "camera.ma")
    (plane,), (shape,) = scene.named("imagePlane"), scene.named("camera")
    attributes = scene.nodes[plane].attributes
    assert attributes[".imn"] == ["sh010_plate.1001.exr"]
    assert (attributes[".f"], attributes[".ufe"]) == (["4"], ["yes"])
    assert attributes[".s"] == scene.nodes[shape].attributes[".cap"]
    for frame in (FIRST_FRAME, FIRST_FRAME + 5):
        for plane_name, camera_name in (("ox", "hfo"), ("oy", "vfo")):
            offset = scene.value(f"{plane}.{plane_name}", frame)
            assert offset == scene.value(f"{shape}.{camera_name}", frame) != 0
    assert scene.inputs[f"{plane}.fe"] == f"{scene.named('expression')[0]}.out[0]"
    assert scene.inputs[f"{shape}.ip"] == f"{plane}.msg"


def test_moving_principal_point(tmp_path, shot):
    drift = np.linspace(0, 12, len(shot.cameras))
    intrinsics = shot.cameras.intrinsics
    moved = replace(intrinsics, cx=intrinsics.cx + drift, cy=intrinsics.cy - drift)
    shot = replace(shot, cameras=replace(shot.cameras, intrinsics=moved))
    scene = scene_from_shot(shot)
    write_maya_ascii(tmp_path / "camera.ma", scene)
    write_fbx_ascii(tmp_path / "camera.fbx", scene)
    write_usd(tmp_path / "camera.usda", scene)
    maya, fbx = MayaScene(tmp_path / "camera.ma"), FbxScene(tmp_path / "camera.fbx")
    rate = exact_frame_rate(shot.plate.fps)
    assert_sees_the_same(shot, lambda points, f: maya.project(points, f, WIDTH, HEIGHT))
    assert_sees_the_same(shot, lambda points, f: fbx.project(points, f / rate, WIDTH, HEIGHT))
    assert_sees_the_same(shot, usd_projection(Usd.Stage.Open(str(tmp_path / "camera.usda"))))


@pytest.mark.parametrize(
    "path",
    [
        '//server/sh 010/"quoted" plate.1001.exr',
        'x"; system("touch /tmp/owned"); //.exr',
        "ends with a backslash\\",
        "new\nline.exr",
        "plåt_試験.1001.exr",
    ],
)
def test_maya_ascii_plate_path_cannot_leave_its_string(tmp_path, shot, path):
    shot = replace(shot, plate=replace(shot.plate, files=[path]))
    write_maya_ascii(tmp_path / "camera.ma", scene_from_shot(shot))
    scene = MayaScene(tmp_path / "camera.ma")  # fails on any command but the expected ones
    (plane,) = scene.named("imagePlane")
    expected = path.replace("\\", "/").replace("\n", " ")
    assert scene.nodes[plane].attributes[".imn"] == [expected]


def test_fbx(tmp_path, any_shot):
    write_fbx_ascii(tmp_path / "camera.fbx", scene_from_shot(any_shot))
    scene = FbxScene(tmp_path / "camera.fbx")
    rate = exact_frame_rate(any_shot.plate.fps)
    assert_sees_the_same(any_shot, lambda points, f: scene.project(points, f / rate, WIDTH, HEIGHT))
    assert scene.settings["UpAxis"] == [1] and scene.settings["UnitScaleFactor"] == [1]
    mode = {25.0: 10, 23.976: 13, 29.97: 9}[any_shot.plate.fps]
    assert scene.settings["TimeMode"] == [mode]


def usd_projection(stage: Usd.Stage) -> Callable[[np.ndarray, int], np.ndarray]:
    def project(points: np.ndarray, frame: int) -> np.ndarray:
        camera = UsdGeom.Camera(stage.GetPrimAtPath("/sh010_plate_solve/camera"))
        frustum = camera.GetCamera(frame).frustum
        matrix = frustum.ComputeViewMatrix() * frustum.ComputeProjectionMatrix()
        ndc = np.array([matrix.Transform(Gf.Vec3d(*point)) for point in points.tolist()])
        return np.stack([WIDTH * (ndc[:, 0] + 1) / 2, HEIGHT * (1 - ndc[:, 1]) / 2], axis=1)

    return project


def test_usd(tmp_path, any_shot):
    write_usd(tmp_path / "camera.usda", scene_from_shot(any_shot))
    stage = Usd.Stage.Open(str(tmp_path / "camera.usda"))
    assert_sees_the_same(any_shot, usd_projection(stage))

    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 0.01
    assert stage.GetTimeCodesPerSecond() == float(exact_frame_rate(any_shot.plate.fps))
    numbers = any_shot.plate.frame_numbers
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (numbers[0], numbers[-1])
    points = UsdGeom.Points(stage.GetPrimAtPath("/sh010_plate_solve/points"))
    np.testing.assert_allclose(points.GetPointsAttr().Get(), maya_points(any_shot), atol=1e-4)
    colours = np.array(points.GetDisplayColorAttr().Get()) * 255
    np.testing.assert_allclose(colours, any_shot.points.rgb, atol=1e-4)


def test_alembic(tmp_path, any_shot):
    write_alembic(tmp_path / "camera.abc", scene_from_shot(any_shot))
    archive = alembic3d.Abc.IArchive(str(tmp_path / "camera.abc"))
    group = archive.getTop().children[0]
    by_name = {child.getName(): child for child in group.children}
    transform = alembic3d.AbcGeom.IXform(group, "sh010_plate_cam")
    camera = alembic3d.AbcGeom.ICamera(transform, "sh010_plate_camShape")
    rate = exact_frame_rate(any_shot.plate.fps)
    assert transform.getSchema().getNumSamples() == len(any_shot.cameras)

    def project(points: np.ndarray, frame: int) -> np.ndarray:
        at = alembic3d.Abc.ISampleSelector(float(frame / rate))
        matrix = transform.getSchema().getValue(at).getMatrix()
        row_vector = np.array([[matrix[i][j] for j in range(4)] for i in range(4)])
        local = np.c_[points, np.ones(len(points))] @ np.linalg.inv(row_vector)
        lens = camera.getSchema().getValue(at)
        # Alembic's own reading of aperture, offset and focal length: a horizontal field of view
        # in degrees, and the part of the plane that the picture shows, 1 = half that field.
        window = lens.getScreenWindow()
        half_field = np.tan(np.radians(lens.getFieldOfView()) / 2)
        x, y = (local[:, :2] / -local[:, 2:3] / half_field).T
        u = (x - window["left"]) / (window["right"] - window["left"])
        v = (window["top"] - y) / (window["top"] - window["bottom"])
        return np.stack([WIDTH * u, HEIGHT * v], axis=1)

    assert_sees_the_same(any_shot, project)
    positions = alembic3d.AbcGeom.IPoints(group, "points").getSchema().getValue().getPositions()
    read = [[p.x, p.y, p.z] for p in positions]
    np.testing.assert_allclose(read, maya_points(any_shot), atol=1e-3)
    assert set(by_name) == {"sh010_plate_cam", "points"}


def test_nuke_chan(tmp_path, any_shot):
    from scipy.spatial.transform import Rotation

    write_nuke_chan(tmp_path / "camera.chan", scene_from_shot(any_shot))
    rows = np.loadtxt(tmp_path / "camera.chan")
    assert rows[:, 0].tolist() == any_shot.plate.frame_numbers
    by_frame = {int(row[0]): row[1:] for row in rows}
    intrinsics = any_shot.cameras.intrinsics
    centre = intrinsics.corner_principal_points()[0]

    def project(points: np.ndarray, frame: int) -> np.ndarray:
        tx, ty, tz, rx, ry, rz, vfov = by_frame[frame]
        turn = Rotation.from_euler("zxy", [rz, rx, ry], degrees=True)
        local = turn.inv().apply(points - (tx, ty, tz))
        focal = HEIGHT / 2 / np.tan(np.radians(vfov) / 2)
        # The format has no principal point: it is ours that is put back here.
        return centre + focal * local[:, :2] / -local[:, 2:] * (1, -1)

    assert_sees_the_same(any_shot, project)


def test_a_pan_of_more_than_a_turn_has_no_jumps(tmp_path, shot):
    angles = np.radians(np.linspace(0, 500, len(shot.cameras)))
    poses = np.tile(np.eye(4), (len(angles), 1, 1))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angles)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angles), -np.sin(angles)
    shot = replace(shot, cameras=replace(shot.cameras, world_from_cam=poses))
    pan = scene_from_shot(shot).rotate_deg[:, 1]
    np.testing.assert_allclose(pan, -np.degrees(angles), atol=1e-9)


def test_film_back_scales_the_lens_and_nothing_else(tmp_path, shot):
    scene = scene_from_shot(shot, film_back_mm=24.89)
    assert scene.film_width_mm == pytest.approx(24.89)
    assert scene.focal_mm[0] == pytest.approx(700 * 24.89 / WIDTH)
    write_maya_ascii(tmp_path / "camera.ma", scene)
    maya = MayaScene(tmp_path / "camera.ma")
    assert_sees_the_same(shot, lambda points, f: maya.project(points, f, WIDTH, HEIGHT))


def test_a_tripod_shot_without_points_is_written(tmp_path, shot):
    empty = PointCloud(
        xyz=np.empty((0, 3)),
        rgb=np.empty((0, 3), np.uint8),
        error_px=np.empty(0),
        seen_point=np.empty(0, np.int64),
        seen_frame=np.empty(0, np.int64),
        seen_xy=np.empty((0, 2)),
    )
    scene = scene_from_shot(replace(shot, points=empty))
    write_maya_ascii(tmp_path / "camera.ma", scene)
    write_fbx_ascii(tmp_path / "camera.fbx", scene)
    write_usd(tmp_path / "camera.usda", scene)
    write_alembic(tmp_path / "camera.abc", scene)
    assert MayaScene(tmp_path / "camera.ma").named("locator") == []
    assert FbxScene(tmp_path / "camera.fbx").named("Model", "_cam")
    stage = Usd.Stage.Open(str(tmp_path / "camera.usda"))
    assert stage.GetPrimAtPath("/sh010_plate_solve/camera")
    archive = alembic3d.Abc.IArchive(str(tmp_path / "camera.abc"))
    assert archive.getTop().children[0].getNumChildren() == 1


@pytest.mark.parametrize(
    ("fps", "exact", "unit"),
    [
        (24.0, Fraction(24), "film"),
        (23.976, Fraction(24000, 1001), "23.976fps"),
        (23.98, Fraction(1199, 50), "23.976fps"),
        (29.97002997, Fraction(30000, 1001), "29.97fps"),
        (12.5, Fraction(25, 2), "game"),
        (0.5, Fraction(1, 2), "game"),
    ],
)
def test_frame_rates(fps, exact, unit):
    assert exact_frame_rate(fps) == exact
    assert maya_time_unit(exact_frame_rate(fps)) == unit


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sh010-plate v2", "sh010_plate_v2"), ("010", "_010"), ("", "_"), ("ns:a|b", "ns_a_b")],
)
def test_node_names(name, expected):
    assert node_name(name) == expected
