"""The solve as a COLMAP text model, for tools that start from COLMAP (splats, NeRFs, dense MVS).

PINHOLE, pixel corners at integers as COLMAP has it, world units, OpenCV axes; ids count from 1 in
the order of the plate. Written here and not by pycolmap, which takes several times as long and
reports no progress.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from megasam_shared.rotations import quaternion_xyzw_from_rotation

from megasam_server.export.result_folder import frame_text
from megasam_server.pipeline.solved_shot import SolvedShot


def write_colmap_cameras(path: Path, shot: SolvedShot) -> None:
    """``cameras.txt``: one camera when all frames have the same intrinsics, else one per frame."""
    rows = _intrinsics_rows(shot)
    size = f"{shot.plate.width} {shot.plate.height}"
    lines = (f"{i} PINHOLE {size} {_numbers(row)}\n" for i, row in enumerate(rows.tolist(), 1))
    _write(path, "CAMERA_ID, MODEL, WIDTH, HEIGHT, fx, fy, cx, cy", lines)


def write_colmap_images(path: Path, shot: SolvedShot) -> None:
    """``images.txt``: pose and observations of each frame."""
    points = shot.points
    order, starts = _by_frame(shot)
    observed = np.column_stack([points.seen_xy[order] + 0.5, points.seen_point[order] + 1])
    camera_ids = np.arange(1, len(shot.cameras) + 1)
    if len(_intrinsics_rows(shot)) == 1:
        camera_ids[:] = 1

    def lines() -> Iterator[str]:
        for index, (pose, name) in enumerate(
            zip(shot.cameras.cam_from_world, image_names(shot), strict=True)
        ):
            x, y, z, w = quaternion_xyzw_from_rotation(pose)
            numbers = _numbers([w, x, y, z, *pose[:3, 3].tolist()])
            yield f"{index + 1} {numbers} {camera_ids[index]} {name}\n"
            seen = observed[starts[index] : starts[index + 1]].tolist()
            yield " ".join([f"{x:.8g} {y:.8g} {point:.0f}" for x, y, point in seen]) + "\n"

    _write(path, "IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; X, Y, POINT3D_ID", lines())


def write_colmap_points(path: Path, shot: SolvedShot) -> None:
    """``points3D.txt``: each point with the frames that see it."""
    points = shot.points
    order, starts = _by_frame(shot)
    keypoint = np.empty(len(order), np.int64)  # position of an observation within its frame
    keypoint[order] = np.arange(len(order)) - starts[points.seen_frame[order]]
    by_point = np.argsort(points.seen_point, kind="stable")
    tracks = np.column_stack([points.seen_frame + 1, keypoint])[by_point]
    ends = np.searchsorted(points.seen_point[by_point], np.arange(len(points.xyz) + 1))

    def lines() -> Iterator[str]:
        for index, (xyz, rgb, error) in enumerate(
            zip(points.xyz.tolist(), points.rgb.tolist(), points.error_px.tolist(), strict=True)
        ):
            track = tracks[ends[index] : ends[index + 1]].ravel().tolist()
            colour = " ".join(map(str, rgb))
            seen = " ".join(map(str, track))
            yield f"{index + 1} {_numbers(xyz)} {colour} {error:.6g} {seen}\n"

    _write(path, "POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)", lines())


def image_names(shot: SolvedShot) -> list[str]:
    """File name of each frame: the plate's own, or for a movie ``<name>.<frame>.png``, [N]."""
    if shot.plate.kind == "sequence":
        return [Path(file).name for file in shot.plate.files]
    return [f"{shot.plate.name}.{frame_text(number)}.png" for number in shot.plate.frame_numbers]


def _by_frame(shot: SolvedShot) -> tuple[np.ndarray, np.ndarray]:
    """Order [M] that sorts the observations by frame, and where each frame begins in it, [N+1]."""
    order = np.argsort(shot.points.seen_frame, kind="stable")
    frames = np.arange(len(shot.cameras) + 1)
    return order, np.searchsorted(shot.points.seen_frame[order], frames)


def _intrinsics_rows(shot: SolvedShot) -> np.ndarray:
    """fx, fy, cx, cy, one row for all frames when they agree, else N rows."""
    intrinsics = shot.cameras.intrinsics
    rows = np.column_stack([intrinsics.fx, intrinsics.fy, intrinsics.corner_principal_points()])
    return rows[:1] if np.all(rows == rows[0]) else rows


def _numbers(values: list[float]) -> str:
    return " ".join([f"{value:.12g}" for value in values])


def _write(path: Path, columns: str, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"# {columns}\n")
        file.writelines(lines)
