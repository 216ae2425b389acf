"""Which pairs of frames get optical flow: neighbours, and steps long enough to see depth."""

from __future__ import annotations

import numpy as np

from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.geometry.two_view import TwoView

STEPS = (2, 3, 4, 6, 8, 12, 16)
"""Candidates for the longer step, frames."""

WANTED_PARALLAX = 1 / 60
"""Median parallax that a longer step should reach, share of the long side (10 px of 640)."""

LEAST_OVERLAP = 0.6
"""Share of a frame that must still be in view after a longer step."""

BLIND_STEP = 4
"""Longer step when the cameras say nothing about parallax (tripod shot, no points)."""


def visible_inverse_depths(
    cameras: CameraPath, points: PointCloud, frame: int, most: int = 400
) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` solved points seen in ``frame``: pixels [M,2] and inverse depths [M]."""
    seen = points.seen_point[points.seen_frame == frame]
    if len(seen) > most:
        seen = seen[np.linspace(0, len(seen) - 1, most).astype(int)]
    pixels, depth = cameras.project(points.xyz[seen], np.full(len(seen), frame))
    ok = depth > 0
    return pixels[ok], 1 / depth[ok]


def _grid_at_infinity(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9))
    return np.stack([x.ravel(), y.ravel()], axis=1), np.zeros(x.size)


def _parallax_and_overlap(
    cameras: CameraPath, i: int, j: int, pixels: np.ndarray, inverse_depth: np.ndarray
) -> tuple[float, float]:
    """Median parallax (px) from frame ``i`` to ``j``, and the share of samples still in view."""
    view = TwoView.between(cameras, i, j)
    infinity = view.at_infinity(pixels[:, 0], pixels[:, 1])
    arrived = view.project(infinity, inverse_depth)
    parallax = np.hypot(*(arrived - view.project(infinity, 0.0)))
    size = (cameras.intrinsics.width, cameras.intrinsics.height)
    inside = [(arrived[a] >= 0) & (arrived[a] <= size[a] - 1) for a in (0, 1)]
    finite = parallax[np.isfinite(parallax)]
    return (float(np.median(finite)) if len(finite) else 0.0), float(np.mean(inside[0] & inside[1]))


def _longer_step(
    cameras: CameraPath, frame: int, direction: int, samples: tuple[np.ndarray, np.ndarray]
) -> int | None:
    """The shortest step with the wanted parallax, else the longest with overlap, else None."""
    size = cameras.intrinsics
    wanted = WANTED_PARALLAX * max(size.width, size.height)
    has_depth = bool(np.any(samples[1] > 0))
    best = None
    for step in STEPS:
        other = frame + direction * step
        if not 0 <= other < len(cameras) or (not has_depth and step > BLIND_STEP):
            break
        parallax, overlap = _parallax_and_overlap(cameras, frame, other, *samples)
        if overlap < LEAST_OVERLAP:
            break
        best = step
        if has_depth and parallax >= wanted:
            break
    return best


def choose_pairs(cameras: CameraPath, points: PointCloud, tripod: bool) -> np.ndarray:
    """Unordered pairs to match, int64 [E,2] with i < j, sorted.

    Every frame gets its neighbours and, ahead and back, one longer step chosen from the solved
    cameras so that its points move enough to be triangulated while the frames still overlap.

    Args:
        cameras: at the size the flow is computed at.
        points: solved points (world positions; observations tell which frame sees them).
        tripod: rotation alone explains the shot, so no step gives parallax.
    """
    size = cameras.intrinsics
    count = len(cameras)
    edges = {(i, i + 1) for i in range(count - 1)}
    for frame in range(count):
        samples = _grid_at_infinity(size.width, size.height)
        if not tripod and len(points.xyz):
            seen = visible_inverse_depths(cameras, points, frame)
            samples = seen if len(seen[0]) >= 8 else samples
        for direction in (1, -1):
            step = _longer_step(cameras, frame, direction, samples)
            if step:
                edges.add(
                    (min(frame, frame + direction * step), max(frame, frame + direction * step))
                )
    return np.array(sorted(edges), dtype=np.int64).reshape(-1, 2)
