"""How well a dense track explains the flow, and the static points that both agree on.

The flow of stage 4 is measured by another network than the one that tracked, so it is a check of
the cameras, not a repetition: where a static cell of the tracker's grid goes by its disparity and
the cameras, and where the flow leads.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from megasam_server.flow.flow_store import FlowStore
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.geometry.two_view import TwoView, pixel_grid
from megasam_server.media.in_order import map_in_order

EXPLAINED = 3e-3
"""Largest reprojection error of a pixel that fits the cameras, share of the plate's width."""

STATIC = 0.5
"""Least probability of being static of a static cell."""

MOST_POINTS = 8000
_LEAST_TRUST = 0.99
_BLOCKS = 8


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


def reprojection(track: DenseTrack, flows: FlowStore, plate_width: int) -> Reprojection:
    """Compare the flow of all pairs with the track."""
    count, height, width = track.disparity.shape
    squared, fitting, explained, trusted = (np.zeros(count) for _ in range(4))
    covered = np.zeros((count, _BLOCKS, _BLOCKS), bool)
    rows = (np.arange(height) * _BLOCKS // height)[:, None] + np.zeros((1, width), int)
    columns = (np.arange(width) * _BLOCKS // width)[None] + np.zeros((height, 1), int)

    def of_pair(pair: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return pair_error(track, flows, pair, plate_width)

    sources = flows.pairs[:, 0].tolist()
    errors = map_in_order(of_pair, range(len(sources)))
    for i, (error, trust, _) in zip(sources, errors, strict=True):
        fits = trust & (error < EXPLAINED * plate_width)
        good = fits & (track.static[i] > STATIC)
        squared[i] += np.sum(error[good] ** 2)
        fitting[i] += good.sum()
        explained[i] += fits.sum()
        trusted[i] += trust.sum()
        covered[i, rows[good], columns[good]] = True
    with np.errstate(invalid="ignore", divide="ignore"):
        return Reprojection(
            rms_px=float(np.sqrt(squared.sum() / fitting.sum())),
            per_frame_rms_px=np.sqrt(squared / fitting),
            per_frame_count=fitting.astype(np.int64),
            per_frame_explained=explained / np.maximum(trusted, 1),
            explained_share=float(explained.sum() / max(trusted.sum(), 1)),
            coverage=float(covered.mean()),
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
    _, height, width = track.disparity.shape
    scale = np.array([plate_size[0] / width, plate_size[1] / height])
    # Of each keyframe's points: xyz, colour; and for each sighting: point, frame, pixel, error.
    xyz, rgb, seen, total = [], [], [], 0
    for key in keyframes:
        errors = {p: pair_error(track, flows, p, plate_size[0]) for p in flows.pairs_from(key)}
        limit = EXPLAINED * plate_size[0]
        fits = {p: trust & (error < limit) for p, (error, trust, _) in errors.items()}
        again = sum(fits.values(), np.zeros((height, width), int)) > 0
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
        for pair, fit in fits.items():
            error, _, arrived = errors[pair]
            here = fit[y, x]
            frame = np.full(here.sum(), flows.pairs[pair, 1])
            sighting = (arrived[y, x][here], error[y, x][here])
            seen.append((numbers[here], frame, *sighting))
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


def pair_error(
    track: DenseTrack, flows: FlowStore, pair: int, plate_width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a pair, for each cell of its first frame:

    Returns:
        error [h,w] in plate pixels between flow and track; whether the flow of all of the cell can
        be trusted [h,w]; and where it leads [h,w,2] in cells of the other frame.
    """
    i, j = flows.pairs[pair]
    height, width = track.disparity.shape[1:]
    cells = (width, height)
    flow = [cv2.resize(axis, cells, interpolation=cv2.INTER_AREA) for axis in flows.flow(pair)]
    trust = cv2.resize(flows.trust(pair), cells, interpolation=cv2.INTER_AREA) > _LEAST_TRUST
    x, y = pixel_grid(height, width)
    to_cells = (width / flows.width, height / flows.height)
    arrived = np.stack([x + flow[0] * to_cells[0], y + flow[1] * to_cells[1]])  # [2,h,w]
    view = TwoView.between(track.cameras, i, j)
    projected = view.project(view.at_infinity(x, y), track.disparity[i])  # [2,h,w]
    error = np.linalg.norm(projected - arrived, axis=0) * (plate_width / width)
    error[~np.isfinite(error)] = np.inf  # behind the camera
    return error, trust, np.moveaxis(arrived, 0, -1)


def _world_points(track: DenseTrack, frame: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """World positions [P,3] of cells of a frame."""
    inverse = np.linalg.inv(track.cameras.intrinsics.matrices()[frame])
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ inverse.T
    in_camera = rays / track.disparity[frame][y, x][:, None]
    pose = track.cameras.world_from_cam[frame]
    return in_camera @ pose[:3, :3].T + pose[:3, 3]
