"""A result folder whose true camera and points are known, written as the solver writes one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from megasam_server.export.depth_images import write_depth_preview
from megasam_server.export.result_folder import ResultFolder
from megasam_shared.extrinsics import build_extrinsics
from megasam_shared.quality import Quality

WIDTH, HEIGHT = 1920, 1080


@dataclass(frozen=True)
class MadeUpSolve:
    """OpenCV axes, solver units; pixels with corners at integers.

    Attributes:
        folder: with the results.
        plate: folder with a frame for each solved one.
        frames: [N] numbers in the plate.
        world_from_cam: [N,4,4].
        focal: [N].
        centre: principal point.
        points: [P,3].
    """

    folder: Path
    plate: Path
    frames: list[int]
    world_from_cam: np.ndarray
    focal: np.ndarray
    centre: tuple[float, float]
    points: np.ndarray

    def pixels(self, index: int) -> np.ndarray:
        """Where frame ``index`` truly sees the points, [P,2]."""
        cam_from_world = np.linalg.inv(self.world_from_cam[index])
        in_cam = self.points @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
        return in_cam[:, :2] / in_cam[:, 2:] * self.focal[index] + self.centre


def make_up_solve(
    folder: Path,
    *,
    count: int = 24,
    first_frame: int = 1001,
    centre: tuple[float, float] = (WIDTH / 2, HEIGHT / 2),
    zoom: bool = False,
    system: str = "maya",
    usable: bool = True,
    num_points: int = 60,
    images: bool = True,
) -> MadeUpSolve:
    """A camera that walks on, pans by far more than half a turn, tilts and rolls."""
    share = np.linspace(0, 1, count)
    poses = np.tile(np.eye(4), (count, 1, 1))
    for pose, s in zip(poses, share, strict=True):
        pan = cv2.Rodrigues(np.array([0.0, 3.9 * s, 0.0]))[0]
        tilt = cv2.Rodrigues(np.array([0.3 * np.sin(5 * s), 0.0, 0.0]))[0]
        roll = cv2.Rodrigues(np.array([0.0, 0.0, 0.2 * s]))[0]
        pose[:3, :3] = pan @ tilt @ roll
        pose[:3, 3] = [1.5 * s, -0.4 * np.sin(3 * s), 0.8 * s]
    focal = np.full(count, 1800.0) * (1 + 0.3 * share if zoom else 1)
    # Far around, so that each frame can be asked about points in front of it.
    rng = np.random.default_rng(3)
    points = rng.normal(size=(num_points, 3))
    points *= rng.uniform(4, 30, (num_points, 1)) / np.linalg.norm(points, axis=1, keepdims=True)
    frames = list(range(first_frame, first_frame + count))
    solve = MadeUpSolve(folder, folder.with_name("plate"), frames, poses, focal, centre, points)

    layout = ResultFolder(folder)
    layout.depth_preview.mkdir(parents=True)
    extrinsics = build_extrinsics(
        world_from_cam=poses.tolist(),
        focal_px=focal.tolist(),
        width=WIDTH,
        height=HEIGHT,
        frame_numbers=frames,
        fps=24,
        coordinate_system=system,
        source="Classical",
        solving_method="made up",
        status="OK",
        scale_is_metric=False,
        principal_point=centre,
        usable=usable,
    )
    layout.camera_extrinsics.write_text(json.dumps(extrinsics))
    quality = Quality(
        verdict="good" if usable else "failed",
        reasons=[] if usable else ["The focal length is a guess."],
        rms_px=0.42,
        per_frame_rms_px=[0.42] * count,
        coverage=0.9,
        moving_share=0.0,
        baseline_to_depth=0.2,
        median_track_length=9.0,
        num_points=num_points,
        focal_profile=None,
        scale_is_metric=False,
    )
    facts = quality.to_map() | {"depth_near_far": [4.0, 30.0], "settings": {"film_back_mm": 0}}
    layout.quality.write_text(json.dumps(facts))
    _write_points(layout.points, points)
    if images:
        solve.plate.mkdir()
        for number in frames:
            cv2.imwrite(str(solve.plate / f"sh010.{number}.png"), np.zeros((9, 16, 3), np.uint8))
            preview = layout.depth_preview_image("sh010", number)
            write_depth_preview(preview, np.full((9, 16), 5.0), (4.0, 30.0))
    return solve


def _write_points(path: Path, points: np.ndarray) -> None:
    from megasam_server.export.point_cloud_ply import write_point_cloud
    from megasam_server.geometry.point_cloud import PointCloud

    none = np.empty(0, np.int64)
    errors = np.linspace(0.1, 2.0, len(points))
    rgb = np.zeros((len(points), 3), np.uint8)
    cloud = PointCloud(points, rgb, errors, none, none, np.empty((0, 2)))
    write_point_cloud(path, cloud)
