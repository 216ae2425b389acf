"""Inverse depth of every pixel that the flow measures, and how sure it is.

Everything here works on a grid of every ``STRIDE``-th pixel and in units of the clip's own scale: inverse
depth times ``unit``, a typical depth, so that 1 is a typical surface. Weights are 1 / variance in these
units: weight 100 is a depth known to 10 % there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from megasam_server.flow import FlowResult
from megasam_server.flow.dense_frames import DenseFrames
from megasam_server.flow.rigid_fit import inverse_depth_limits
from megasam_server.flow.sightings import FlowSighting, sightings_of_frame
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.two_view import TwoView, fit_inverse_depth

STRIDE = 2

MOST_WEIGHT = 1000.0
"""Flow errors of one frame share causes: no pixel is believed better than about 3 %."""

TEXTURE_GRADIENT = 3.0
"""Gradient along the epipolar line, grey levels per pixel, at which a measurement counts half."""

MOVING_MARGIN = 5
"""Pixels around moving and left-out regions that are not measured: flow mixes both sides there."""


@dataclass(frozen=True)
class MeasuredDepth:
    """Inverse depth (units of the clip) and weight, both float32 [h/2,w/2]; weight 0 = not measured."""

    inverse_depth: np.ndarray
    weight: np.ndarray


class MeasuredStore:
    """Measured depth of all frames on disk, float16 [N,2,h/2,w/2]."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        self._path, self._shape = path, (2, height, width)

    def clear(self) -> None:
        """Start an empty file."""
        self._path.write_bytes(b"")

    def append(self, measured: MeasuredDepth) -> None:
        """Write the next frame."""
        with self._path.open("ab") as file:
            both = np.stack([measured.inverse_depth, measured.weight])
            file.write(both.astype(np.float16).tobytes())

    def read(self, frame: int) -> MeasuredDepth:
        """One frame, in memory."""
        size = int(np.prod(self._shape))
        flat = np.fromfile(self._path, np.float16, count=size, offset=2 * frame * size)
        return MeasuredDepth(*flat.reshape(self._shape).astype(np.float32))


def not_measurable(moving: np.ndarray, left_out: np.ndarray | None) -> np.ndarray:
    """Moving or left-out pixels with their margin, bool [h,w] -> bool [h/2,w/2]."""
    bad = moving.astype(np.uint8)
    if left_out is not None:
        bad |= left_out.astype(np.uint8)
    kernel = np.ones((2 * MOVING_MARGIN + 1,) * 2, np.uint8)
    return cv2.dilate(bad, kernel)[::STRIDE, ::STRIDE] > 0


def _structure(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean gradient products (xx, xy, yy) about each grid pixel, grey levels^2 per pixel^2."""
    smooth = cv2.GaussianBlur(grey, (5, 5), 1.0)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    products = (dx * dx, dx * dy, dy * dy)
    return tuple(cv2.blur(p, (7, 7))[::STRIDE, ::STRIDE] for p in products)


def _along_epipolar_line(
    sighting: FlowSighting, structure: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """0-1: does the picture's texture pin the flow down in the direction that depth moves a pixel?"""
    e = sighting.sighting.view.epipole.astype(np.float32)
    seen = sighting.sighting.seen
    x, y = e[0] - seen[0] * e[2], e[1] - seen[1] * e[2]
    xx, xy, yy = structure
    energy = (x * x * xx + 2 * x * y * xy + y * y * yy) / np.maximum(x * x + y * y, 1e-12)
    return energy / (energy + np.float32(TEXTURE_GRADIENT**2))


def triangulate_frame(
    frame: int, frames: DenseFrames, flow: FlowResult, cameras: CameraPath, unit: float
) -> MeasuredDepth:
    """Triangulate the flow that starts in one frame.

    The weight combines the angle and the pair's noise (information of the least squares fit), the round
    trip of the flow, the texture along the epipolar line and what remains after the fit.

    Args:
        cameras: at the size of ``frames``.
        unit: depth that counts as 1.
    """
    structure = _structure(frames.grey(frame))
    sightings = sightings_of_frame(flow.flows, cameras, flow.rigid, frame, STRIDE)
    for s in sightings:
        s.sighting.weight[:] *= _along_epipolar_line(s, structure)
    limits = inverse_depth_limits(flow.near_inverse_depth[frame])
    inverse_depth, information = fit_inverse_depth([s.sighting for s in sightings], limits)
    chi2, total = np.zeros_like(information), np.full_like(information, 1e-12)
    for s in sightings:
        error2 = np.minimum(np.square(s.sighting.residual(inverse_depth)) / s.sigma**2, 100)
        chi2 += s.sighting.weight * error2
        total += s.sighting.weight
    agreement = 1 / (1 + chi2 / total / 9)
    weight = np.minimum(information * np.float32(unit**-2), MOST_WEIGHT) * agreement
    # At the nearest allowed depth the fit is stuck, not measured.
    stuck = inverse_depth >= 0.99 * limits[1]
    left_out = frames.left_out(frame)
    weight[stuck | not_measurable(flow.motion_masks[frame], left_out)] = 0
    return MeasuredDepth(inverse_depth * np.float32(unit), weight)


def transfer(
    sighting: FlowSighting,
    there: np.ndarray,
    cameras: CameraPath,
    frame: int,
    unit: float,
) -> np.ndarray:
    """Inverse depth map of the other frame, ``there`` [h/2,w/2], as ``frame`` would see it.

    Returns:
        float32 [h/2,w/2], units of the clip; what lies behind the camera or outside becomes 0.
    """
    seen = sighting.sighting.seen
    at = np.nan_to_num(seen / STRIDE, nan=-1e4)
    sampled = cv2.remap(there, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    back = TwoView.between(cameras, sighting.frame, frame)
    infinity = back.at_infinity(seen[0], seen[1])
    arrived = back.arriving_inverse_depth(infinity, sampled / np.float32(unit))
    return np.nan_to_num(arrived * np.float32(unit), nan=0.0)


def fuse_frame(
    frame: int,
    store: MeasuredStore,
    flow: FlowResult,
    cameras: CameraPath,
    unit: float,
    over_time: bool,
) -> tuple[MeasuredDepth, list[FlowSighting]]:
    """A frame's own measurement averaged with its neighbours', brought over along the flow.

    Measurements far from the common value count less (Geman-McClure, two rounds). Without ``over_time``
    it is the frame's own alone.

    Returns:
        the fused measurement, and the frame's sightings for further use.
    """
    own = store.read(frame)
    sightings = sightings_of_frame(flow.flows, cameras, flow.rigid, frame, STRIDE)
    if not over_time:
        return own, sightings
    values, weights = [own.inverse_depth], [own.weight]
    for s in sightings:
        there = store.read(s.frame)
        seen = s.sighting.seen / STRIDE
        weight = cv2.remap(there.weight, seen[0], seen[1], cv2.INTER_LINEAR)
        values.append(transfer(s, there.inverse_depth, cameras, frame, unit))
        # Neighbours share frames, hence errors, with the frame's own measurement.
        weights.append(0.5 * weight * s.trust)
    values, weights = np.stack(values), np.stack(weights)
    total = np.maximum(weights.sum(axis=0), 1e-9)
    mean = (weights * values).sum(axis=0) / total
    for _ in range(2):
        chi2 = np.square(values - mean) * np.minimum(weights, 400)
        robust = weights * np.square(1 / (1 + chi2 / 9))
        total = np.maximum(robust.sum(axis=0), 1e-9)
        mean = (robust * values).sum(axis=0) / total
    return MeasuredDepth(mean, np.minimum(total, MOST_WEIGHT)), sightings
