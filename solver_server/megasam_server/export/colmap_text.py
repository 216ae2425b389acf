"""The solve as a COLMAP text model, for tools that start from COLMAP (splats, NeRFs, dense MVS)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap

from megasam_server.export.result_folder import frame_text
from megasam_server.geometry.camera import Intrinsics
from megasam_server.pipeline.solved_shot import SolvedShot


def write_colmap_text(folder: Path, shot: SolvedShot) -> None:
    """``cameras.txt``, ``images.txt``, ``points3D.txt`` (and rigs, frames) in ``folder``.

    PINHOLE, pixel corners at integers as COLMAP has it; one camera when the intrinsics are the same
    in every frame, else one per frame. Ids count from 1 in the order of the plate. World units,
    OpenCV axes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = pycolmap.Reconstruction()
    for camera in _cameras(shot.cameras.intrinsics):
        model.add_camera_with_trivial_rig(camera)
    shared_camera = model.num_cameras() == 1

    points = shot.points
    # Observations sorted by frame: row i of `order` is the i-th observation of its frame in turn.
    order = np.argsort(points.seen_frame, kind="stable")
    starts = np.searchsorted(points.seen_frame[order], np.arange(len(shot.cameras) + 1))
    poses = shot.cameras.cam_from_world[:, :3]
    for index, name in enumerate(image_names(shot)):
        seen = order[starts[index] : starts[index + 1]]
        image = pycolmap.Image(
            name=name,
            keypoints=points.seen_xy[seen] + 0.5,
            camera_id=1 if shared_camera else index + 1,
            image_id=index + 1,
        )
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(poses[index]))

    keypoint_of = np.empty(len(order), np.int64)
    keypoint_of[order] = np.arange(len(order)) - starts[points.seen_frame[order]]
    by_point = np.argsort(points.seen_point, kind="stable")
    ends = np.searchsorted(points.seen_point[by_point], np.arange(len(points.xyz) + 1))
    for index, (xyz, rgb, error) in enumerate(
        zip(points.xyz, points.rgb, points.error_px, strict=True)
    ):
        seen = by_point[ends[index] : ends[index + 1]]
        track = pycolmap.Track()
        for frame, keypoint in zip(
            points.seen_frame[seen].tolist(), keypoint_of[seen].tolist(), strict=True
        ):
            track.add_element(frame + 1, keypoint)
        model.points3D[model.add_point3D(xyz, track, rgb)].error = error
    model.write_text(str(folder))


def image_names(shot: SolvedShot) -> list[str]:
    """File name of each frame: the plate's own, or for a movie ``<name>.<frame>.png``, [N]."""
    if shot.plate.kind == "sequence":
        return [Path(file).name for file in shot.plate.files]
    return [f"{shot.plate.name}.{frame_text(number)}.png" for number in shot.plate.frame_numbers]


def _cameras(intrinsics: Intrinsics) -> list[pycolmap.Camera]:
    """One camera when all frames agree, else one for each of the N frames."""
    rows = np.column_stack([intrinsics.fx, intrinsics.fy, intrinsics.corner_principal_points()])
    if np.all(rows == rows[0]):
        rows = rows[:1]
    return [
        pycolmap.Camera(
            model="PINHOLE",
            width=intrinsics.width,
            height=intrinsics.height,
            params=row,
            camera_id=number,
        )
        for number, row in enumerate(rows, start=1)
    ]
