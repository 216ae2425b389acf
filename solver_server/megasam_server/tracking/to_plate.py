"""From the solver's picture size and axes to the plate's."""

from __future__ import annotations

import numpy as np
from megasam_shared.quality import FocalProfile, Notice

from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.media.frame_store import FrameStore
from megasam_server.media.plate import PlateInfo
from megasam_server.tracking.reconstruction import Reconstruction
from megasam_server.tracking.solution import TrackingSolution

# Without a known scale the median point lies this far from the camera: a room, if a unit is a metre.
MEDIAN_DEPTH = 10.0
_MIN_W = 1e-4
_CELLS = 8


def to_plate(
    model: Reconstruction,
    frames: FrameStore,
    plate: PlateInfo,
    focal_given: bool,
    profile: FocalProfile | None,
    weak: np.ndarray,
    warnings: list[Notice],
) -> TrackingSolution:
    """The solution in plate pixels, the first camera as the world, the median point 10 units away.

    Args:
        model: all N frames. frames: what it was solved on. weak: bool [N], poses that rest on too few tracks.
        The rest goes into the solution as it is.
    """
    scale = plate.width / frames.width
    used = model.seen.select(model.used)
    error = np.linalg.norm(model.scene.residuals(used), axis=1) * scale
    num = frames.num_frames
    count = np.bincount(used.camera, minlength=num)
    with np.errstate(invalid="ignore"):
        per_frame = np.sqrt(np.bincount(used.camera, error**2, num) / count)
    world_from_cam = np.tile(np.eye(4), (num, 1, 1))
    world_from_cam[:, :3, :3] = np.swapaxes(model.scene.rotation, 1, 2)
    points = _no_points()
    if model.options.translate:
        centre = -np.einsum("nji,nj->ni", model.scene.rotation, model.scene.translation)
        points, unit = _finite_points(model, frames, error)
        world_from_cam[:, :3, 3] = centre * unit
    first = np.linalg.inv(world_from_cam[0])
    world_from_cam = first @ world_from_cam
    xyz = points.xyz @ first[:3, :3].T + first[:3, 3]
    intrinsics = Intrinsics.centred(frames.width, frames.height, model.scene.focal)
    lengths = np.bincount(used.point, minlength=len(model.triangulated))
    return TrackingSolution(
        cameras=CameraPath(world_from_cam, intrinsics.at_resolution(plate.width, plate.height)),
        points=PointCloud(
            xyz,
            points.rgb,
            points.error_px,
            points.seen_point,
            points.seen_frame,
            (points.seen_xy + 0.5) * scale - 0.5,
        ),
        model="perspective" if model.options.translate else "tripod",
        focal_given=focal_given,
        focal_profile=profile,
        rms_px=float(np.sqrt((error**2).mean())) if len(error) else float("nan"),
        per_frame_rms_px=per_frame,
        per_frame_tracks=count,
        per_frame_explained=count / np.maximum(np.bincount(model.seen.camera, minlength=num), 1),
        explained_share=float(model.used.mean()),
        coverage=_coverage(used.camera, used.xy, frames),
        median_track_length=float(np.median(lengths[lengths > 0])) if len(error) else 0.0,
        interpolated=weak,
        warnings=warnings,
    )


def _coverage(camera: np.ndarray, xy: np.ndarray, frames: FrameStore) -> float:
    """Mean share of 8x8 cells with a track; ``xy`` relative to the centre of the picture."""
    size = np.array([frames.width, frames.height])
    cell = np.clip(((xy + size / 2) * _CELLS / size).astype(int), 0, _CELLS - 1)
    filled = np.unique((camera * _CELLS + cell[:, 1]) * _CELLS + cell[:, 0])
    return len(filled) / (frames.num_frames * _CELLS**2)


def _no_points() -> PointCloud:
    none = np.empty(0, np.int64)
    return PointCloud(
        np.empty((0, 3)), np.empty((0, 3), np.uint8), np.empty(0), none, none, np.empty((0, 2))
    )


def _finite_points(
    model: Reconstruction, frames: FrameStore, error: np.ndarray
) -> tuple[PointCloud, float]:
    """Points at a finite place, with colours, and the length of a unit of the model in ours."""
    used = model.seen.select(model.used)
    homogeneous = model.scene.points
    ids = np.unique(used.point)
    ids = ids[homogeneous[ids, 3] > _MIN_W]
    xyz = homogeneous[ids, :3] / homogeneous[ids, 3:]
    slot = np.full(len(homogeneous), -1)
    slot[ids] = np.arange(len(ids))
    keep = slot[used.point] >= 0
    used = used.select(keep)
    point, frame = slot[used.point], used.camera
    in_camera = np.einsum("mj,mj->m", model.scene.rotation[frame, 2], xyz[point])
    depth = in_camera + model.scene.translation[frame, 2]
    unit = MEDIAN_DEPTH / float(np.median(depth)) if len(depth) else 1.0
    squared = np.bincount(point, error[keep] ** 2, len(ids))
    rms = np.sqrt(squared / np.maximum(np.bincount(point, minlength=len(ids)), 1))
    centre = (np.array([frames.width, frames.height]) - 1) / 2
    rgb = _colours(frames, point, frame, used.xy + centre, len(ids))
    straight = model.scene.straightened(used) * model.scene.focal[frame][:, None] + centre
    return PointCloud(xyz * unit, rgb, rms, point, frame, straight), unit


def _colours(
    frames: FrameStore, point: np.ndarray, frame: np.ndarray, pixel: np.ndarray, num: int
) -> np.ndarray:
    """Colour of each point where it was seen first, uint8 [num,3]."""
    rgb = np.zeros((num, 3), np.uint8)
    order = np.argsort(frame, kind="stable")
    _, first = np.unique(point[order], return_index=True)
    rows = order[first]
    for index in np.unique(frame[rows]):
        here = rows[frame[rows] == index]
        column = np.clip(np.round(pixel[here, 0]).astype(int), 0, frames.width - 1)
        row = np.clip(np.round(pixel[here, 1]).astype(int), 0, frames.height - 1)
        rgb[point[here]] = frames.frame(int(index))[row, column]
    return rgb
