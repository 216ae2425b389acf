"""The tracker with weights that are being judged, on clips whose cameras are known."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from megasam_server.geometry import se3
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.trajectory import TrajectoryError, compare
from megasam_server.models.droid_net import DroidNet
from megasam_server.raycast.situations import build_take
from megasam_server.tracking.dense_slam.clip_frames import tracker_intrinsics
from megasam_server.tracking.dense_slam.frame_size import FrameSize
from megasam_server.tracking.dense_slam.frames import TrackingFrame
from megasam_server.tracking.dense_slam.options import TrackerOptions
from megasam_server.tracking.dense_slam.tracker import Tracker, TrackingResult
from megasam_server.training.clips import CELL, film_clips
from megasam_server.training.texture_bank import TextureBank

STEPS_PX = (3.0, 8.0)


@dataclass(frozen=True)
class TrueTake:
    """A clip as the tracker is given it, and the truth.

    Attributes:
        name: for tables.
        frames: N, no prior.
        intrinsics: fx fy cx cy [4] as :class:`Tracker` takes them.
        world_from_cam: true poses, float64 [N,4,4].
        moving: bool [N,h,w] on the tracker's grid, None where unknown.
    """

    name: str
    frames: list[TrackingFrame]
    intrinsics: Tensor
    world_from_cam: np.ndarray
    moving: Tensor | None = None


@dataclass(frozen=True)
class Tracked:
    """A result and its errors.

    Attributes:
        mask_iou: moving cells in both / in either, over all frames; None where the truth is unknown or nothing moves.
    """

    result: TrackingResult
    errors: TrajectoryError
    mask_iou: float | None
    seconds: float


def track(
    take: TrueTake, network: DroidNet, device: torch.device, focal: float | None = None
) -> Tracked:
    """Track a clip without depth prior.

    Args:
        network: on ``device``.
        focal: where to start with the focal length, in widths of the picture, which is then refined; None for the
            true one, held.
    """
    intrinsics = take.intrinsics
    if focal is not None:
        width = take.frames[0].image.shape[2]
        intrinsics = torch.cat([intrinsics.new_tensor([focal * width] * 2), intrinsics[2:]])
    options = TrackerOptions(
        optimise_focal=focal is not None, feature_dtype=next(network.parameters()).dtype
    )
    began = time.monotonic()
    result = Tracker(take.frames, intrinsics, network, options, device).run()
    seconds = time.monotonic() - began
    world_from_cam = se3.matrix(se3.inverse(result.cam_from_world.double())).numpy()
    errors = compare(dict(enumerate(world_from_cam)), take.world_from_cam)
    mask_iou = None
    if take.moving is not None and take.moving.any():
        found = result.static_probability < 0.5
        mask_iou = float((found & take.moving).sum() / (found | take.moving).sum())
    return Tracked(result, errors, mask_iou, seconds)


def generated_take(bank: TextureBank, seed: int, frames: int, height: int, width: int) -> TrueTake:
    """One generated clip with movers."""
    clips = film_clips(bank, seed, 1, frames, height, width, static=False, steps_px=STEPS_PX)
    pictures, poses = clips.pictures[0].cpu(), clips.poses[0].cpu().double()
    return TrueTake(
        f"generated {seed % 1000}",
        [TrackingFrame(picture) for picture in pictures],
        CELL * clips.intrinsics[0].cpu(),
        se3.matrix(se3.inverse(poses)).numpy(),
        clips.moving[0].cpu(),
    )


def rendered_take(name: str, frames: int, resolution: int = 384) -> TrueTake:
    """The first ``frames`` frames of a rendered situation."""
    take = build_take(name)
    take = replace(take, num_frames=min(frames, take.num_frames))
    rendered = list(take.frames())
    return sized_take(
        name,
        [frame.rgb for frame in rendered],
        take.cameras(),
        [frame.moving for frame in rendered],
        resolution,
    )


def sized_take(
    name: str,
    pictures: Iterable[np.ndarray],
    cameras: CameraPath,
    moving: Iterable[np.ndarray] | None,
    resolution: int = 384,
) -> TrueTake:
    """A clip brought to the tracker's size.

    Args:
        pictures: uint8 RGB [H,W,3].
        moving: bool [H,W] of each frame; None where unknown.
    """
    lens = cameras.intrinsics
    size = FrameSize.of_whole_plate(lens.width, lens.height, resolution)
    images = (size.image(picture)[..., ::-1].transpose(2, 0, 1).copy() for picture in pictures)
    cells = tuple(side // CELL for side in size.cropped)
    if moving is not None:
        shares = [
            cv2.resize(x.astype(np.float32), cells, interpolation=cv2.INTER_AREA) for x in moving
        ]
        moving = torch.from_numpy(np.stack(shares) > 0.5)
    return TrueTake(
        name,
        [TrackingFrame(torch.from_numpy(image)) for image in images],
        tracker_intrinsics(lens, size.cropped),
        cameras.world_from_cam,
        moving,
    )


TABLE_HEAD = f"{'clip':28} frames keyframes  rotation deg   ATE %      ATE  mask IoU  seconds"


def table_row(take: TrueTake, tracked: Tracked) -> str:
    """A line below TABLE_HEAD."""
    errors = tracked.errors
    overlap = "       -" if tracked.mask_iou is None else f"{tracked.mask_iou:8.2f}"
    return (
        f"{take.name:28} {len(take.frames):6} {len(tracked.result.keyframes):9} "
        f"{errors.rotation_rms_deg:13.3f} {errors.ate_percent:7.2f} {errors.ate:8.4f}  {overlap} {tracked.seconds:8.1f}"
    )
