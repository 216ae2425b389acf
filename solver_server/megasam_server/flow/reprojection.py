"""How well a dense track explains the flow, and the static points that both agree on.

The flow of stage 4 is measured by another network than the one that tracked, so it is a check of
the cameras, not a repetition: where a static cell of the tracker's grid goes by its disparity and
the cameras, and where the flow leads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from megasam_server.flow.flow_store import FlowStore
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.geometry.projective import pixel_grid
from megasam_server.geometry.two_view import TwoView

EXPLAINED = 3e-3
"""Largest reprojection error of a pixel that fits the cameras, share of the plate's width."""

STATIC = 0.5
"""Least probability of being static of a static cell."""

MOST_POINTS = 8000
_LEAST_TRUST = 0.99
_BLOCKS = 8
_PAIRS_AT_ONCE = 32


@dataclass(frozen=True)
class DenseTrack:
    """A dense track on its grid of w x h cells, which is a picture of as many pixels.

    Attributes:
        cameras: N cameras, intrinsics at w x h.
        disparity: 1 / z-depth, world units, float32 [N,h,w].
        static: probability of being static, float32 [N,h,w].
    """

    cameras: CameraPath
    disparity: np.ndarray
    static: np.ndarray


@dataclass(frozen=True)
class Reprojection:
    """What the flow says about the track; errors in plate pixels. Of the pixels with trusted flow:

    Attributes:
        rms_px: RMS error of those that are static and explained; NaN without any.
        per_frame_rms_px: [N] the same for each frame.
        per_frame_count: [N] how many these are.
        per_frame_explained: [N] share that is explained, movers counted; 0 without any.
        explained_share: the same over the clip.
        coverage: mean share of 8x8 blocks of the picture with one that is static and explained.
    """

    rms_px: float
    per_frame_rms_px: np.ndarray
    per_frame_count: np.ndarray
    per_frame_explained: np.ndarray
    explained_share: float
    coverage: float


def reprojection(
    track: DenseTrack, flows: FlowStore, plate_width: int, device: torch.device
) -> Reprojection:
    """Compare the flow of all pairs with the track; computed on ``device``."""
    count, height, width = track.disparity.shape
    static = torch.from_numpy(track.static).to(device) > STATIC  # [N,h,w]
    disparity = torch.from_numpy(track.disparity).to(device)
    rows = torch.arange(height, device=device) * _BLOCKS // height
    columns = torch.arange(width, device=device) * _BLOCKS // width
    blocks = (rows[:, None] * _BLOCKS + columns).flatten()  # [h*w]
    # Of each frame: squared errors and number of what is good, number of what fits, and is trusted.
    sums = torch.zeros(count, 4, dtype=torch.float64, device=device)
    covered = torch.zeros(count, _BLOCKS**2, device=device)
    everything = np.arange(len(flows.pairs))
    for start in range(0, len(everything), _PAIRS_AT_ONCE):
        pairs = everything[start : start + _PAIRS_AT_ONCE]
        found = _pair_errors(track, disparity, flows, pairs, plate_width)
        source = torch.from_numpy(flows.pairs[pairs, 0]).to(device)
        fits = found.trusted & (found.error < EXPLAINED * plate_width)  # [P,h,w]
        good = fits & static[source]
        squared = found.error.square().masked_fill(~good, 0.0)
        each = [squared, good, fits, found.trusted]
        of_pairs = torch.stack([x.flatten(1).double().sum(1) for x in each], 1)  # [P,4]
        sums.index_add_(0, source, of_pairs)
        seen = torch.zeros(len(pairs), _BLOCKS**2, device=device)
        seen.index_add_(1, blocks, good.flatten(1).float())
        covered.index_add_(0, source, seen)
    squared, fitting, explained, trusted = sums.cpu().numpy().T
    with np.errstate(invalid="ignore", divide="ignore"):
        return Reprojection(
            rms_px=float(np.sqrt(squared.sum() / fitting.sum())),
            per_frame_rms_px=np.sqrt(squared / fitting),
            per_frame_count=fitting.astype(np.int64),
            per_frame_explained=explained / np.maximum(trusted, 1),
            explained_share=float(explained.sum() / max(trusted.sum(), 1)),
            coverage=float((covered > 0).double().mean()),
        )


def static_points(
    track: DenseTrack,
    flows: FlowStore,
    keyframes: list[int],
    colours: dict[int, np.ndarray],
    plate_size: tuple[int, int],
) -> PointCloud:
    """Static cells of the keyframes, with the frames where the flow saw them again.

    Only points that the flow confirms in another frame are kept.

    Args:
        colours: RGB uint8 [h,w,3] of each keyframe.
        plate_size: width and height of the plate, pixels.
    """
    each = -(-MOST_POINTS // max(len(keyframes), 1))
    height, width = track.disparity.shape[1:]
    disparity = torch.from_numpy(track.disparity)
    scale = np.array([plate_size[0] / width, plate_size[1] / height])
    # Of each keyframe's points: xyz, colour; and for each sighting: point, frame, pixel, error.
    xyz, rgb, seen, total = [], [], [], 0
    for key in keyframes:
        pairs = np.array(flows.pairs_from(key), int)
        if not len(pairs):
            continue
        found = _pair_errors(track, disparity, flows, pairs, plate_size[0])
        errors, arrived = found.error.numpy(), found.arrived.movedim(1, -1).numpy()
        fits = found.trusted.numpy() & (errors < EXPLAINED * plate_size[0])
        again = fits.any(axis=0)
        y, x = np.nonzero(again & (track.static[key] > STATIC))
        if not len(x):
            continue
        chosen = np.linspace(0, len(x) - 1, min(each, len(x))).astype(int)
        y, x = y[chosen], x[chosen]
        numbers = total + np.arange(len(x))
        total += len(x)
        xyz.append(_world_points(track, key, x, y))
        rgb.append(colours[key][y, x])
        at_home = np.stack([x, y], axis=1).astype(float)
        seen.append((numbers, np.full(len(x), key), at_home, np.zeros(len(x))))
        for pair, fit, error, cell in zip(pairs, fits, errors, arrived, strict=True):
            here = fit[y, x]
            frame = np.full(here.sum(), flows.pairs[pair, 1])
            seen.append((numbers[here], frame, cell[y, x][here], error[y, x][here]))
    if not total:
        none = np.empty(0, np.int64)
        return PointCloud(
            np.empty((0, 3)), np.empty((0, 3), np.uint8), np.empty(0), none, none, np.empty((0, 2))
        )
    point, frame, cell, error = (np.concatenate(part) for part in zip(*seen, strict=True))
    often = np.bincount(point, minlength=total)
    mean_square = np.bincount(point, error**2, total) / np.maximum(often - 1, 1)  # not at home
    pixel = (cell + 0.5) * scale - 0.5
    return PointCloud(
        np.concatenate(xyz), np.concatenate(rgb), np.sqrt(mean_square), point, frame, pixel
    )


@dataclass(frozen=True)
class _PairErrors:
    """Of P pairs, for each cell of their first frames:

    Attributes:
        error: plate pixels between flow and track, float32 [P,h,w]; infinite behind the camera.
        trusted: the flow of all of the cell can be trusted, bool [P,h,w].
        arrived: where the flow leads, in cells of the other frame, float32 [P,2,h,w].
    """

    error: Tensor
    trusted: Tensor
    arrived: Tensor


def _pair_errors(
    track: DenseTrack, disparity: Tensor, flows: FlowStore, pairs: np.ndarray, plate_width: int
) -> _PairErrors:
    """
    Args:
        disparity: that of the track, on the device where to compute.
        pairs: indices of pairs of ``flows``.
    """
    device, (height, width) = disparity.device, disparity.shape[1:]
    flow = np.empty((len(pairs), 2, flows.height, flows.width), np.float16)
    trust = np.empty((len(pairs), flows.height, flows.width), np.uint8)
    for row, pair in enumerate(pairs.tolist()):
        flows.read_into(pair, flow[row], trust[row])
    # Means over cells: of the flow, and of what can be trusted.
    moved = F.adaptive_avg_pool2d(torch.from_numpy(flow).to(device).float(), (height, width))
    share = F.adaptive_avg_pool2d(torch.from_numpy(trust).to(device).float(), (height, width)) / 255
    to_cells = torch.tensor([width / flows.width, height / flows.height], device=device)
    grid = pixel_grid(height, width, torch.float32, device).movedim(2, 0)  # [2,h,w]
    arrived = grid + moved * to_cells[:, None, None]  # [P,2,h,w]

    views = [TwoView.between(track.cameras, i, j) for i, j in flows.pairs[pairs]]
    matrices = np.concatenate(
        [[view.homography for view in views], np.array([v.epipole for v in views])[:, :, None]], 2
    )  # [P,3,4]
    source = torch.from_numpy(flows.pairs[pairs, 0]).to(device)
    points = torch.empty(len(pairs), 4, height * width, device=device)
    points[:, :2], points[:, 2] = grid.flatten(1), 1.0
    points[:, 3] = disparity[source].flatten(1)
    x, y, z = torch.bmm(torch.from_numpy(matrices).to(device, torch.float32), points).unbind(1)
    projected = torch.stack([x / z, y / z], 1).unflatten(2, (height, width))
    error = (projected - arrived).norm(dim=1) * (plate_width / width)
    in_front = (z > 1e-6).unflatten(1, (height, width))
    error = torch.where(in_front & error.isfinite(), error, torch.inf)
    return _PairErrors(error, share > _LEAST_TRUST, arrived)


def _world_points(track: DenseTrack, frame: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """World positions [P,3] of cells of a frame."""
    inverse = np.linalg.inv(track.cameras.intrinsics.matrices()[frame])
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ inverse.T
    in_camera = rays / track.disparity[frame][y, x][:, None]
    pose = track.cameras.world_from_cam[frame]
    return in_camera @ pose[:3, :3].T + pose[:3, 3]
