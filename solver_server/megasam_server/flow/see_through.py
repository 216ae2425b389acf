"""Motion along the epipolar line, which flow takes for depth: frames that see through each other.

A thing that moves in the direction in which depth would move it has flow like a static thing at a
wrong depth. But a static thing would still be there later. Every pixel's rigid depth is tested
against frames some time away: a point that another frame should see, but sees farther background
instead, is not where its depth says; nor is one that lies behind a surface which other frames have
measured on the same line of sight. Points merely hidden contradict nobody.
"""

from __future__ import annotations

import cv2
import numpy as np

from megasam_server.flow.rigid_depth import STRIDE, RigidDepth, RigidDepthStore
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.two_view import TwoView, pixel_grid

OFFSETS = (4, 8, 12, 18, 24)
"""Frames away, both ways: long enough for a walker to have left the place."""

COARSE = 2
"""Every second point of the depth grid is tested."""

TOLERANCE = 0.12
"""Depths that differ by less than this share are the same."""

TOLERANCE_SIGMA = 3.0

LEAST_WEIGHT = 25.0
"""Depths known worse than to 20 % prove nothing (see ``rigid_depth``)."""


def _coarse(depth: RigidDepth) -> RigidDepth:
    weight = depth.weight[::COARSE, ::COARSE]
    return RigidDepth(
        np.ascontiguousarray(depth.inverse_depth[::COARSE, ::COARSE]),
        np.where(weight >= LEAST_WEIGHT, weight, np.float32(0)),
    )


def _tolerance(
    inverse_depth: np.ndarray, weight: np.ndarray, other_weight: np.ndarray
) -> np.ndarray:
    variance = 1 / np.maximum(weight, 1) + 1 / np.maximum(other_weight, 1)
    return TOLERANCE * inverse_depth + TOLERANCE_SIGMA * np.sqrt(variance)


def _land(view: TwoView, depth: RigidDepth, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions [2,h,w] (coarse pixels) and inverse depths of a frame's points in another one."""
    height, width = depth.weight.shape
    x, y = pixel_grid(height, width)
    scale = np.float32(STRIDE * COARSE)
    infinity = view.at_infinity(x * scale, y * scale)
    inverse_depth = depth.inverse_depth / np.float32(unit)
    at = view.project(infinity, inverse_depth) / scale
    arrived = view.arriving_inverse_depth(infinity, inverse_depth) * np.float32(unit)
    return np.nan_to_num(at, nan=-1e4), np.nan_to_num(arrived, nan=0.0)


def _seen_through(
    here: RigidDepth, there: RigidDepth, view: TwoView, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points of ``here`` (0/1) where ``there`` sees farther, and points tested (0/1)."""
    at, arrived = _land(view, here, unit)
    # The nearest surface about the landing place, and sureness all about it: edges are blurred.
    kernel = np.ones((3, 3), np.uint8)
    nearest = cv2.dilate(there.inverse_depth, kernel)
    sure = cv2.erode(there.weight, kernel)
    surface = cv2.remap(nearest, at[0], at[1], cv2.INTER_NEAREST)
    weight = cv2.remap(sure, at[0], at[1], cv2.INTER_NEAREST)
    tested = (weight > 0) & (here.weight > 0)
    through = arrived > surface + _tolerance(arrived, here.weight, weight)
    return (tested & through).astype(np.float32), tested.astype(np.float32)


def _behind_a_surface(
    here: RigidDepth, there: RigidDepth, back: TwoView, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points of ``here`` (0/1) behind what ``there`` has measured, and points tested (0/1)."""
    at, arrived = _land(back, there, unit)
    column, row = np.rint(np.clip(at, -1, 1e6)).astype(np.int64)
    height, width = here.weight.shape
    valid = (there.weight > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    target = (row * width + column)[valid]
    order = np.argsort(arrived[valid])  # nearest last: it wins
    surface, weight = np.zeros(height * width, np.float32), np.zeros(height * width, np.float32)
    surface[target[order]] = arrived[valid][order]
    weight[target[order]] = there.weight[valid][order]
    # A lone near point between far ones is an error or an edge.
    surface = cv2.erode(surface.reshape(height, width), np.ones((3, 3), np.uint8))
    weight = weight.reshape(height, width)
    tested = (surface > 0) & (weight > 0) & (here.weight > 0)
    behind = surface > here.inverse_depth + _tolerance(surface, here.weight, weight)
    return (tested & behind).astype(np.float32), tested.astype(np.float32)


def contradictions(frame: int, store: RigidDepthStore, cameras: CameraPath) -> np.ndarray:
    """Share of the frames asked that contradict each pixel's rigid depth, float32 0-1 [h/2,w/2].

    0 where nobody can tell. One frame alone counts for little.
    """
    full = store.read(frame)
    here = _coarse(full)
    against, asked = np.zeros_like(here.weight), np.full_like(here.weight, 1.0)
    for offset in (sign * o for o in OFFSETS for sign in (1, -1)):
        other = frame + offset
        if not 0 <= other < len(cameras):
            continue
        there = _coarse(store.read(other))
        view = TwoView.between(cameras, frame, other)
        back = TwoView.between(cameras, other, frame)
        through, tested = _seen_through(here, there, view, store.unit)
        behind, tested_too = _behind_a_surface(here, there, back, store.unit)
        against += np.maximum(through, behind)
        asked += np.maximum(tested, tested_too)
    share = cv2.blur(against / asked, (3, 3))
    return cv2.resize(share, full.weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
