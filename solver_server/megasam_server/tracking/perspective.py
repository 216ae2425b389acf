"""The moving camera: where to begin, and with which focal length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from megasam_server.tracking.bundle import BundleOptions
from megasam_server.tracking.reconstruction import Reconstruction, relative_pose
from megasam_server.tracking.tracks import Tracks

# Starting focal lengths in units of the long side; the adjustment converges from about 30 % away.
START_FOCALS = (0.75, 1.1, 0.5, 1.6, 2.4)
_PAIR_STEPS = (1, 2, 3, 5, 8, 13, 21)
_SAME_FOCAL = 0.03


def reconstruct(
    tracks: Tracks,
    num_cameras: int,
    size: tuple[int, int],
    focals_px: list[float],
    options: BundleOptions,
    report: Callable[[int, int], None],
) -> Reconstruction | None:
    """Structure from motion from each starting focal length; the one that explains most of the tracks.

    Stops early when two starts have met in the same focal length and agree on the cost.

    Args:
        tracks: in keyframes 0..K-1. num_cameras: K. size: (width, height), pixels.
        focals_px: starting focal lengths. options: what may move.
        report: called with (starts done, starts).

    Returns:
        the best reconstruction by truncated cost; None when no pair of keyframes has enough parallax.
    """
    best: Reconstruction | None = None
    found: list[tuple[float, float]] = []
    for done, focal in enumerate(focals_px):
        candidate = _grow_from(tracks, num_cameras, size, focal, options)
        report(done + 1, len(focals_px))
        if candidate is None:
            continue
        cost, solved = candidate.truncated_cost(), float(np.median(candidate.scene.focal))
        agreeing = [
            c for c, f in found if abs(f / solved - 1) < _SAME_FOCAL and abs(c / cost - 1) < 0.1
        ]
        if best is None or cost < best.truncated_cost():
            best = candidate
        found.append((cost, solved))
        if agreeing and candidate.registered.all() and cost <= 1.1 * best.truncated_cost():
            break
    return best


def _grow_from(
    tracks: Tracks, num_cameras: int, size: tuple[int, int], focal_px: float, options: BundleOptions
) -> Reconstruction | None:
    model = Reconstruction(tracks, num_cameras, focal_px, size, options)
    for first, second in _starting_pairs(model)[:5]:
        if model.start(first, second):
            break
    else:
        return None
    model.adjust(focal="fixed")
    model.filter()
    model.grow()
    return model


def _starting_pairs(model: Reconstruction) -> list[tuple[int, int]]:
    """Keyframe pairs, best first: many inliers, high inlier share, parallax (more than 8 degrees does not help)."""
    num = len(model.registered)
    camera = model.camera_model(model.scene.focal[0])
    scored = []
    for first in range(0, num, max(1, num // 8)):
        for step in _PAIR_STEPS:
            second = first + step
            if second >= num:
                break
            geometry, ids, inliers = relative_pose(model.seen, first, second, camera)
            if geometry is None:
                continue
            degrees = min(np.degrees(geometry.tri_angle), 8.0)
            scored.append((degrees * len(inliers) ** 2 / len(ids), first, second))
    return [(first, second) for _, first, second in sorted(scored, reverse=True)]
