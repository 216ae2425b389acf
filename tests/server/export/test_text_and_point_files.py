"""Tables, point cloud and COLMAP model, read back by other programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from megasam_server.export.colmap_text import (
    write_colmap_cameras,
    write_colmap_images,
    write_colmap_points,
)
from megasam_server.export.intrinsics_text import write_intrinsics
from megasam_server.export.point_cloud_ply import write_point_cloud
from megasam_server.export.poses_tum import write_poses_tum
from megasam_server.pipeline.solved_shot import SolvedShot

from tests.server.export.conftest import HEIGHT, WIDTH, make_shot


def test_poses_and_intrinsics_rebuild_the_projection(tmp_path, shot):
    write_poses_tum(tmp_path / "poses_tum.txt", shot.cameras)
    write_intrinsics(tmp_path / "intrinsics.txt", shot.cameras.intrinsics)

    poses = np.loadtxt(tmp_path / "poses_tum.txt")
    intrinsics = np.loadtxt(tmp_path / "intrinsics.txt")
    assert poses[:, 0].tolist() == intrinsics[:, 0].tolist() == list(range(len(shot.cameras)))
    for index, (pose, (_, fx, fy, cx, cy)) in enumerate(zip(poses, intrinsics, strict=True)):
        world_from_cam = pycolmap.Rigid3d(pycolmap.Rotation3d(pose[4:]), pose[1:4])
        in_cam = shot.points.xyz @ world_from_cam.inverse().rotation.matrix().T
        in_cam += world_from_cam.inverse().translation
        corner = in_cam[:, :2] / in_cam[:, 2:] * (fx, fy) + (cx, cy)
        expected, _ = shot.cameras.project(shot.points.xyz, np.full(len(in_cam), index))
        np.testing.assert_allclose(corner, expected + 0.5, atol=1e-6)


def test_point_cloud_is_read_by_colmap_and_by_bytes(tmp_path, shot):
    path = tmp_path / "points.ply"
    write_point_cloud(path, shot.points)

    model = pycolmap.Reconstruction()
    model.import_PLY(str(path))
    read = [model.points3D[i] for i in sorted(model.points3D)]
    best_first = shot.points.best_first()
    assert sorted(best_first) == list(range(400))
    np.testing.assert_allclose([p.xyz for p in read], shot.points.xyz[best_first], atol=1e-5)
    assert np.array_equal([p.color for p in read], shot.points.rgb[best_first])

    header, _, body = path.read_bytes().partition(b"end_header\n")
    assert b"element vertex 400\n" in header
    assert len(body) == 400 * 15


def write_colmap_text(folder: Path, shot: SolvedShot) -> None:
    folder.mkdir()
    write_colmap_cameras(folder / "cameras.txt", shot)
    write_colmap_images(folder / "images.txt", shot)
    write_colmap_points(folder / "points3D.txt", shot)


@pytest.mark.parametrize("zoom", [False, True])
def test_colmap_model_reprojects_onto_its_observations(tmp_path, zoom):
    shot = make_shot(tmp_path, zoom=zoom)
    write_colmap_text(tmp_path / "colmap", shot)

    model = pycolmap.Reconstruction()
    model.read_text(str(tmp_path / "colmap"))
    assert model.num_cameras() == (len(shot.cameras) if zoom else 1)
    assert model.num_reg_images() == len(shot.cameras)
    assert model.num_points3D() == len(shot.points.xyz)
    assert model.compute_num_observations() == len(shot.points.seen_xy)
    assert [model.images[i].name for i in sorted(model.images)] == shot.plate.files
    camera = model.cameras[1]
    assert (camera.width, camera.height, camera.model.name) == (WIDTH, HEIGHT, "PINHOLE")

    worst = 0.0
    for image in model.images.values():
        for keypoint in image.points2D:
            projected = image.project_point(model.points3D[keypoint.point3D_id].xyz)
            worst = max(worst, np.abs(projected - keypoint.xy).max())
    assert worst < 1e-5  # eight digits are written
    errors = [model.points3D[i].error for i in sorted(model.points3D)]
    np.testing.assert_allclose(errors, shot.points.error_px, rtol=1e-5)


def test_colmap_frames_of_a_movie_get_numbered_names(tmp_path, shot):
    movie = replace(shot, plate=replace(shot.plate, kind="movie", files=["clip.mov"]))
    write_colmap_text(tmp_path / "colmap", movie)
    model = pycolmap.Reconstruction(str(tmp_path / "colmap"))
    assert model.images[1].name == "sh010_plate.1001.png"
