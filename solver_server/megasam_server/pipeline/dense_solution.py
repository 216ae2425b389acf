"""From the dense tracker's result to cameras of the plate, judged by the flow."""

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


def dense_solution(
    result: TrackingResult,
    frames: ClipFrames,
    flows: FlowStore,
    alignment: ClipAlignment | None,
    plate: PlateInfo,
    focal_given: bool,
    device: torch.device,
) -> DenseSolution:
    """Cameras, static points and their errors.

    Args:
        frames: as they were tracked. flows: of the same frames, any size.
        alignment: of the depth prior that was tracked with; None without one.
        focal_given: it was known and held.
        device: where flow and track are compared.
    """
    count = len(frames)
    world_from_cam = se3.matrix(se3.inverse(result.cam_from_world.double())).numpy()
    tripod = result.parallax is None or result.parallax < 8 * TrackerOptions().min_parallax
    if tripod:
        world_from_cam[:, :3, 3] = 0.0
    focal = float(result.intrinsics[0]) * plate.width / frames.size[0]
    lens = Intrinsics.centred(plate.width, plate.height, np.full(count, focal))
    unit, metric = _unit(result, alignment)
    tracked = CameraPath(world_from_cam, lens)
    scaled = world_from_cam.copy()
    scaled[:, :3, 3] *= unit
    cameras = CameraPath(scaled, lens)

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
    keyframes = [] if tripod else result.keyframes
    points = static_points(track, flows, keyframes, colours, (plate.width, plate.height))
    lengths = np.bincount(points.seen_point) if len(points.seen_point) else np.zeros(1)
    tracking = TrackingSolution(
        cameras=cameras,
        points=points,
        model="tripod" if tripod else "perspective",
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
        tracked,
        result.disparities,
        result.static_probability,
        unit,
        metric,
        tripod and alignment is None,
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
