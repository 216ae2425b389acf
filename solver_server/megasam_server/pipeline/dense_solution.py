"""From the dense tracker's result to cameras of the plate, and how well they fit."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from megasam_shared.quality import Notice
from torch import Tensor

from megasam_server.flow.flow_store import FlowStore
from megasam_server.flow.reprojection import DenseTrack, reprojection, static_points
from megasam_server.geometry import se3
from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.media.plate import PlateInfo
from megasam_server.metric_depth.alignment import ClipAlignment
from megasam_server.tracking.dense_slam.clip_frames import ClipFrames
from megasam_server.tracking.dense_slam.options import TrackerOptions
from megasam_server.tracking.dense_slam.tracker import TrackingResult
from megasam_server.tracking.solution import TrackingSolution
from megasam_server.tracking.to_plate import MEDIAN_DEPTH


@dataclass(frozen=True)
class DenseSolution:
    """A solved clip.

    Attributes:
        tracking: in plate pixels and the result's unit of length.
        cameras_in_tracker_units: the same cameras in the tracker's unit.
        disparities, static: of the tracker, [N,h,w].
        unit: length of the tracker's unit in that of the result.
        scale_is_metric: the result's unit is the metre.
        depth_is_unknown: neither parallax nor a prior shows it.
    """

    tracking: TrackingSolution
    cameras_in_tracker_units: CameraPath
    disparities: Tensor
    static: Tensor
    unit: float
    scale_is_metric: bool
    depth_is_unknown: bool

    depth_unknown_notice = Notice(
        "depth_unknown",
        "The camera only turns and there is no depth network, so depth cannot be seen: every pixel"
        " lies at 1 world unit.",
        "Use the camera's rotation; take distances from the set or from a shot with travel.",
    )


@dataclass(frozen=True)
class DensePath:
    """The camera path that the dense tracker found, before anything has judged it.

    Attributes:
        cameras: in plate pixels and the tracker's unit of length.
        tripod: the camera only turns.
    """

    cameras: CameraPath
    tripod: bool

    @classmethod
    def of(cls, result: TrackingResult, plate: PlateInfo, width: int) -> DensePath:
        """``width``: of the pictures that were tracked, pixels."""
        world_from_cam = se3.matrix(se3.inverse(result.cam_from_world.double())).numpy()
        tripod = result.parallax is None or result.parallax < 8 * TrackerOptions().min_parallax
        if tripod:
            world_from_cam[:, :3, 3] = 0.0
        focal = np.full(len(world_from_cam), float(result.intrinsics[0]) * plate.width / width)
        lens = Intrinsics.centred(plate.width, plate.height, focal)
        return cls(CameraPath(world_from_cam, lens), tripod)


def refined_solution(
    tracking: TrackingSolution, result: TrackingResult, alignment: ClipAlignment | None
) -> DenseSolution:
    """What the tracks have made of the path of ``result``, in the units of the dense tracker.

    Args:
        tracking: in any unit of length.
        alignment: of the depth prior that was tracked with; None without one.
    """
    unit, metric = _unit(result, alignment)
    in_tracker_units = tracking.scaled(_tracker_units(tracking, result))
    return DenseSolution(
        in_tracker_units.scaled(unit),
        in_tracker_units.cameras,
        result.disparities,
        result.static_probability,
        unit,
        metric,
        tracking.model == "tripod" and alignment is None,
    )


def _tracker_units(solution: TrackingSolution, result: TrackingResult) -> float:
    """Length of the solution's unit in that of the tracker: what makes the depths of the points
    those of the cells that they are seen in."""
    points = solution.points
    if not len(points.seen_point):
        return 1.0
    pixel, depth = solution.cameras.project(points.xyz[points.seen_point], points.seen_frame)
    rows, columns = result.disparities.shape[1:]
    lens = solution.cameras.intrinsics
    x = np.clip((pixel[:, 0] + 0.5) * columns / lens.width, 0, columns - 1).astype(int)
    y = np.clip((pixel[:, 1] + 0.5) * rows / lens.height, 0, rows - 1).astype(int)
    disparity = result.disparities.numpy()[points.seen_frame, y, x]
    known = (disparity > 0) & (depth > 0)
    return float(1 / np.median(disparity[known] * depth[known])) if known.any() else 1.0


def dense_solution(
    path: DensePath,
    result: TrackingResult,
    frames: ClipFrames,
    flows: FlowStore,
    alignment: ClipAlignment | None,
    plate: PlateInfo,
    focal_given: bool,
    device: torch.device,
) -> DenseSolution:
    """Cameras, static points and their errors, judged by the flow.

    Args:
        path: of ``result``.
        frames: as they were tracked. flows: of the same frames, any size.
        alignment: of the depth prior that was tracked with; None without one.
        focal_given: it was known and held.
        device: where flow and track are compared.
    """
    count = len(frames)
    unit, metric = _unit(result, alignment)
    cameras = path.cameras.scaled(unit)
    height, width = result.disparities.shape[1:]
    static = result.static_probability.numpy()
    track = DenseTrack(
        cameras.at_resolution(width, height), result.disparities.numpy() / unit, static
    )
    fit = reprojection(track, flows, plate.width, device)
    colours = {
        key: cv2.resize(frames.rgb(key), (width, height), interpolation=cv2.INTER_AREA)
        for key in result.keyframes
    }
    keyframes = [] if path.tripod else result.keyframes
    points = static_points(track, flows, keyframes, colours, (plate.width, plate.height))
    lengths = np.bincount(points.seen_point) if len(points.seen_point) else np.zeros(1)
    tracking = TrackingSolution(
        cameras=cameras,
        points=points,
        model="tripod" if path.tripod else "perspective",
        focal_given=focal_given,
        focal_profile=None,
        rms_px=fit.rms_px,
        per_frame_rms_px=fit.per_frame_rms_px,
        per_frame_tracks=fit.per_frame_count,
        explained_share=fit.explained_share,
        per_frame_explained=fit.per_frame_explained,
        coverage=fit.coverage,
        median_track_length=float(np.median(lengths)),
        interpolated=np.zeros(count, bool),
        warnings=[],
    )
    return DenseSolution(
        tracking,
        path.cameras,
        result.disparities,
        result.static_probability,
        unit,
        metric,
        path.tripod and alignment is None,
    )


def _unit(result: TrackingResult, alignment: ClipAlignment | None) -> tuple[float, bool]:
    """Length of the tracker's unit in metres and True, or, without metric depth, such that the
    median depth is that of every solve without a scale, and False."""
    metres = alignment and alignment.metres_per_unit
    if metres and result.prior_scale:
        return metres * result.prior_scale, True
    static = result.static_probability > 0.5
    seen = result.disparities[static] if static.any() else result.disparities
    return MEDIAN_DEPTH * float(seen.median()), False
