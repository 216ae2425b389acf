"""A plate goes through a real server, and the solve into the stand-in for Maya."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from megasam_maya.scene import levelling
from megasam_maya.scene.apply import ApplyOptions, apply_shot
from megasam_maya.shot import read_shot
from megasam_server.service.private import PrivateServer
from megasam_shared.client import SolverClient
from megasam_shared.remote_solve import solve_remotely
from megasam_shared.settings import SolveSettings

from tests.fake_maya.matrices import world_matrix
from tests.fake_maya.projection import project
from tests.maya.scene.conftest import node_of
from tests.server.conftest import room_clip  # noqa: F401

MOST_PIXELS = 0.01
FIRST = 1001


@pytest.fixture(scope="module")
def solved(room_clip, tmp_path_factory) -> tuple[Path, Path]:  # noqa: F811
    """(result folder, plate) of a solve whose frames are 1001 and so on."""
    folder = tmp_path_factory.mktemp("shot")
    plate = folder / "plate"
    plate.mkdir()
    for number, rgb in enumerate(room_clip.rgb, start=FIRST):
        cv2.imwrite(str(plate / f"sh010.{number}.png"), rgb[..., ::-1])
    with PrivateServer() as server, SolverClient(server.address, name="test") as client:
        client.connect(30)
        settings = SolveSettings(quality_preset="fast")
        finished = solve_remotely(client, plate, folder / "results", settings)
    assert finished.usable, finished.reasons
    return finished.folder, plate


def moved_centre(results: Path, folder: Path, shift: tuple[float, float]) -> Path:
    """The same solve as if the lens sat ``shift`` pixels off; solvers here assume centred ones."""
    copy = folder / "off centre"
    shutil.copytree(results, copy)
    path = copy / "camera_extrinsics.json"
    extrinsics = json.loads(path.read_text())
    centre = extrinsics["principal_point"]
    extrinsics["principal_point"] = [centre[0] + shift[0], centre[1] + shift[1]]
    path.write_text(json.dumps(extrinsics))
    return copy


def largest_error(maya, made, results: Path, shift, cm_per_unit: float) -> float:
    """Between the Maya camera and COLMAP's own projection of the solve's COLMAP model."""
    model = pycolmap.Reconstruction(str(results / "colmap"))
    points = np.array([point.xyz for point in model.points3D.values()])
    assert len(points) > 50 and model.num_images() >= 20
    shape = node_of(maya, made.camera_shape)
    in_maya = points * (1, -1, -1) * cm_per_unit
    worst = 0.0
    for image in model.images.values():
        frame = int(Path(image.name).stem.rsplit(".", 1)[1])
        camera = image.camera
        in_cam = image.cam_from_world() * points
        seen = in_cam[:, 2] > 0.1
        true = camera.img_from_cam(in_cam[seen]) + shift
        drawn = project(maya, shape, in_maya[seen], camera.width, camera.height, frame)
        worst = max(worst, float(np.abs(drawn - true).max()))
    return worst


@pytest.mark.parametrize("linear", ["cm", "m"])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (37.5, -21.25)], ids=["centred", "off-centre"])
def test_a_real_solve_is_seen_by_maya_as_by_the_solver(
    solved, maya, host, cmds, tmp_path, linear, shift
):
    results, plate = solved
    cmds.currentUnit(linear=linear)
    before = maya.snapshot()
    folder = results if shift == (0, 0) else moved_centre(results, tmp_path, shift)
    shot = read_shot(folder, plate)
    assert shot.name == "sh010" and shot.frame_numbers[0] == FIRST

    made = apply_shot(shot, ApplyOptions(), host)
    error = largest_error(maya, made, results, shift, 100.0)
    again = apply_shot(shot, ApplyOptions(camera=made.camera, scene_scale=0.2), host)
    error_again = largest_error(maya, again, results, shift, 20.0)
    print(f"\n{linear}, centre {shift}: {error:.1e} px, applied again {error_again:.1e} px")
    assert error < MOST_PIXELS and error_again < MOST_PIXELS
    locators = maya.children(node_of(maya, again.points))
    assert len(locators) > 50
    assert maya.value(node_of(maya, again.image_plane), "imageName").endswith("sh010.1001.png")
    cmds.undo()
    cmds.undo()
    assert maya.snapshot() == before


def test_three_locators_on_the_floor_level_a_real_solve(solved, maya, host, cmds):
    results, plate = solved
    made = apply_shot(read_shot(results, plate), ApplyOptions(), host)
    nodes = maya.children(node_of(maya, made.points))
    at = np.array([world_matrix(maya, node)[3, :3] for node in nodes])
    lowest = np.argsort(at[:, 1])[:20]
    picked = [host.world_position(maya.long_name(nodes[i])) for i in lowest]
    levelling.ground_plane(host, made.camera, picked)
    levelling.bake_down(host, made.camera)
    heights = np.array([world_matrix(maya, nodes[i])[3, 1] for i in lowest])
    assert abs(heights.mean()) < 1e-6
    assert world_matrix(maya, node_of(maya, made.camera), FIRST)[3, 1] > 0
