"""Depth that neighbouring frames agree on."""

from __future__ import annotations

import cv2
import numpy as np

from megasam_server.flow.dense_frames import DenseFrames
from megasam_server.flow.rigid_depth import MOST_WEIGHT, STRIDE, RigidDepth
from megasam_server.flow.rigid_fit import inverse_depth_limits
from megasam_server.flow.sightings import FlowSighting, sightings_of_frame
from megasam_server.flow.stage import FlowResult
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.two_view import TwoView

MOVING_MARGIN = 5
"""Pixels around moving and left-out regions that are not used: flow mixes both sides there."""


class StaticDepth:
    """A frame's rigid depth without the pixels for which it does not hold.

    Args:
        flow: stage 4's result.
        frames: tells which pixels the artist left out.
    """

    def __init__(self, flow: FlowResult, frames: DenseFrames) -> None:
        self._flow, self._frames = flow, frames
        self.unit = flow.rigid_depth.unit

    def holds(self, frame: int) -> np.ndarray:
        """Pixels that are neither moving nor left out nor within the margin of these, bool
        [h/2,w/2]."""
        bad = self._flow.motion_mask(frame)
        left_out = self._frames.left_out(frame)
        if left_out is not None:
            bad |= left_out
        kernel = np.ones((2 * MOVING_MARGIN + 1,) * 2, np.uint8)
        return cv2.dilate(bad, kernel)[::STRIDE, ::STRIDE] == 0

    def read(self, frame: int) -> RigidDepth:
        """Rigid depth with weight 0 where it does not hold, or is stuck at the nearest allowed."""
        depth = self._flow.rigid_depth.read(frame)
        nearest = inverse_depth_limits(self._flow.near_inverse_depth[frame])[1]
        free = depth.inverse_depth < 0.99 * nearest * self.unit
        return RigidDepth(depth.inverse_depth, depth.weight * (self.holds(frame) & free))


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
    static: StaticDepth,
    flow: FlowResult,
    cameras: CameraPath,
    over_time: bool,
) -> tuple[RigidDepth, list[FlowSighting]]:
    """A frame's own measurement averaged with its neighbours', brought over along the flow.

    Measurements far from the common value count less (Geman-McClure, two rounds). Without
    ``over_time`` it is the frame's own alone.

    Returns:
        the fused measurement, and the frame's sightings for further use.
    """
    own = static.read(frame)
    sightings = sightings_of_frame(flow.flows, cameras, flow.rigid, frame, STRIDE)
    if not over_time:
        return own, sightings
    values, weights = [own.inverse_depth], [own.weight]
    for s in sightings:
        there = static.read(s.frame)
        seen = s.sighting.seen / STRIDE
        weight = cv2.remap(there.weight, seen[0], seen[1], cv2.INTER_LINEAR)
        values.append(transfer(s, there.inverse_depth, cameras, frame, static.unit))
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
    return RigidDepth(mean, np.minimum(total, MOST_WEIGHT) * static.holds(frame)), sightings
