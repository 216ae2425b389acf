"""Scores of result files whose errors are known because we put them there."""

import json

import numpy as np
import pytest
from megasam_server.export.depth_images import write_depth_image
from megasam_server.export.intrinsics_text import write_intrinsics
from megasam_server.export.mask_images import write_mask_image
from megasam_server.export.poses_tum import write_poses_tum
from megasam_server.export.result_folder import ResultFolder
from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.raycast.clip import RenderedClip
from megasam_server.raycast.score import score_results
from scipy.spatial.transform import Rotation

FRAMES, WIDTH, HEIGHT = 12, 64, 48


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.1, (FRAMES, 3))).as_matrix()
    poses[:, :3, 3] = np.cumsum(rng.normal(0, 0.2, (FRAMES, 3)), axis=0)
    lens = Intrinsics.centred(WIDTH, HEIGHT, np.full(FRAMES, 60.0))
    depth = rng.uniform(2, 6, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)
    depth[:, :5] = 0  # sky
    moving = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    moving[:, 20:40, 10:30] = True
    rgb = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    return RenderedClip(rgb, depth, moving, CameraPath(poses, lens), 24.0)


def write(folder, cameras, depth, moving):
    result = ResultFolder(folder)
    for path in (result.root, result.depth, result.masks):
        path.mkdir(parents=True)
    numbers = list(range(1, len(cameras) + 1))
    result.camera_extrinsics.write_text(json.dumps({"frame_numbers": numbers}))
    write_poses_tum(result.poses_tum, cameras)
    write_intrinsics(result.intrinsics, cameras.intrinsics)
    for number, z, mask in zip(numbers, depth, moving, strict=True):
        write_depth_image(result.depth_image("p", number), z, "units")
        write_mask_image(result.mask_image("p", number), mask.astype(np.uint8), WIDTH, HEIGHT)
    return result


def test_the_truth_itself_in_another_world_and_scale_has_no_error(tmp_path, truth):
    poses = truth.cameras.world_from_cam.copy()
    world = Rotation.from_rotvec([0.3, -1.0, 0.2]).as_matrix()
    poses[:, :3, :3] = world @ poses[:, :3, :3]
    poses[:, :3, 3] = 0.37 * poses[:, :3, 3] @ world.T + [1, 2, 3]
    cameras = CameraPath(poses, truth.cameras.intrinsics)
    errors = score_results(write(tmp_path / "r", cameras, truth.depth * 0.37, truth.moving), truth)
    assert (errors.posed, errors.frames) == (FRAMES, FRAMES)
    assert errors.rotation_max_deg < 1e-4
    assert errors.ate_percent < 1e-4
    assert errors.focal_percent == 0
    assert errors.mask_iou == 1
    assert errors.depth_percent < 0.05  # half floats


def test_each_error_is_found(tmp_path, truth):
    poses = truth.cameras.world_from_cam.copy()
    turn = Rotation.from_euler("y", 1.0, degrees=True).as_matrix()
    poses[::2, :3, :3] = poses[::2, :3, :3] @ turn
    poses[::2, :3, :3] = poses[::2, :3, :3] @ turn
    lens = Intrinsics.centred(WIDTH, HEIGHT, np.full(FRAMES, 63.0))
    moving = np.zeros_like(truth.moving)
    moving[:, 20:40, 20:40] = True
    depth = truth.depth.copy()
    depth[:, :, ::2] *= 1.1
    errors = score_results(write(tmp_path / "r", CameraPath(poses, lens), depth, moving), truth)
    assert 0.9 < errors.rotation_rms_deg < 1.1  # half of the frames 2 degrees off
    assert errors.focal_percent == pytest.approx(5.0)
    assert errors.mask_iou == pytest.approx(1 / 3)
    assert 3 < errors.depth_percent <= 10
    assert errors.ate_percent < 1e-4


def test_smaller_depth_maps_are_compared_at_their_size(tmp_path, truth):
    smooth = truth.depth.copy()
    smooth[:, 5:] = np.linspace(2, 6, WIDTH, dtype=np.float32)
    clip = RenderedClip(truth.rgb, smooth, truth.moving, truth.cameras, truth.fps)
    half = smooth[:, ::2, ::2]
    errors = score_results(write(tmp_path / "r", truth.cameras, half, truth.moving), clip)
    assert errors.depth_percent < 0.1


def test_a_missing_frame_is_an_error(tmp_path, truth):
    result = write(tmp_path / "r", truth.cameras, truth.depth, truth.moving)
    next(result.masks.iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match="11 files for 12 frames"):
        score_results(result, truth)
