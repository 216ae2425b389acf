"""A whole depth map from what was measured: smooth where the picture is, free to jump at its edges.

The map u minimises  sum w (u - r)^2 + lambda sum g |grad u|^2  over inverse depth (planes stay
planes), w the weight of each measurement r, g small across colour edges: the weighted least squares
of Farbman et al. 2008 with a data term. It is solved from coarse to fine with Jacobi sweeps
(cascadic multigrid).
"""

from __future__ import annotations

import cv2
import numpy as np

SMOOTHNESS = 30.0
"""lambda, in units of the measurements' weights."""

EDGE_CONTRAST = 12.0
"""Colour difference between neighbours, levels of 255, across which depth may jump."""

LEAST_COUPLING = 0.01
"""g across the strongest edge: every hole is filled from somewhere."""

SWEEPS = 24
"""Jacobi sweeps on each level of the pyramid."""


def _coupling(guide: np.ndarray, axis: int) -> np.ndarray:
    """g between neighbours along ``axis``, float32, one shorter than ``guide`` [h,w,3] there."""
    step2 = np.square(np.diff(guide, axis=axis)).sum(axis=2)
    return np.exp(step2 * np.float32(-0.5 / EDGE_CONTRAST**2)) + np.float32(LEAST_COUPLING)


def _sweep(u: np.ndarray, wr: np.ndarray, w: np.ndarray, gx: np.ndarray, gy: np.ndarray) -> None:
    """``SWEEPS`` damped Jacobi sweeps in place; ``gx``, ``gy`` already times lambda."""
    diagonal = w.copy()
    diagonal[:, 1:] += gx
    diagonal[:, :-1] += gx
    diagonal[1:] += gy
    diagonal[:-1] += gy
    inverse = np.float32(0.9) / np.maximum(diagonal, 1e-9)
    for _ in range(SWEEPS):
        flow_x, flow_y = gx * np.diff(u, axis=1), gy * np.diff(u, axis=0)
        gradient = wr - w * u
        gradient[:, :-1] += flow_x
        gradient[:, 1:] -= flow_x
        gradient[:-1] += flow_y
        gradient[1:] -= flow_y
        u += inverse * gradient


def fill(values: np.ndarray, weights: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Complete a partly measured map.

    Args:
        values, weights: measurement r and w >= 0, float32 [h,w]; somewhere w > 0.
        guide: the picture, float32 0-255 [h,w,3].

    Returns:
        u, float32 [h,w], between the least and the largest measured value.
    """
    levels = [(weights * values, weights, guide)]
    while min(levels[-1][1].shape) > 4:
        wr, w, picture = levels[-1]
        size = ((w.shape[1] + 1) // 2, (w.shape[0] + 1) // 2)
        share = np.float32(w.size / (size[0] * size[1]))
        levels.append(
            (
                cv2.resize(wr, size, interpolation=cv2.INTER_AREA) * share,
                cv2.resize(w, size, interpolation=cv2.INTER_AREA) * share,
                cv2.resize(picture, size, interpolation=cv2.INTER_AREA),
            )
        )
    wr, w, _ = levels[-1]
    u = np.full(w.shape, wr.sum() / max(w.sum(), 1e-9), np.float32)
    for wr, w, picture in reversed(levels):
        u = cv2.resize(u, w.shape[::-1], interpolation=cv2.INTER_LINEAR)
        lam = np.float32(SMOOTHNESS)
        _sweep(u, wr, w, lam * _coupling(picture, 1), lam * _coupling(picture, 0))
    return u


CONTACT_SHARE = 0.15
"""Lowest part of a moving region, share of its height, about which the ground contact is looked
for."""

RING = 4
"""Width of the band about a moving region that its depth is taken from, grid pixels."""


FOLLOW = 0.3
"""How fast the depth of a moving region follows what its surroundings say, share per frame."""

MOVER_WEIGHT = 100.0
"""Weight of that depth in the fill."""


def mover_depth(
    moving: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    previous: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth for moving regions, which triangulation cannot measure.

    A moving thing is taken to stand upright where its lowest part touches the picture behind it:
    the whole region gets the median inverse depth of the measured band about its lowest part, but
    never lies behind the median of the band all around (it hides what it moves in front of).
    Against flicker the value follows that of the frame before.

    Args:
        moving: bool [h,w].
        values, weights: measured inverse depth, float32 [h,w].
        previous: the frame before, brought over along the flow, float32 [h,w]; None for the first.

    Returns:
        inverse depth and a moderate weight, float32 [h,w]; weight 0 outside and where nothing is
        measured about a region.
    """
    depth, sure = np.zeros_like(values), np.zeros_like(values)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(moving.astype(np.uint8))
    height, width = moving.shape
    kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
    margin = 2 * RING + 2
    for label in range(1, count):
        x, y, w, h, _ = stats[label]
        window = np.s_[
            max(0, y - margin) : min(height, y + h + margin),
            max(0, x - margin) : min(width, x + w + margin),
        ]
        region = (labels[window] == label).astype(np.uint8)
        known = (weights[window] > 4) & (labels[window] == 0)
        ring = (cv2.dilate(region, kernel, iterations=2) > 0) & known
        if ring.sum() < 8:
            continue
        inverse_depth = np.median(values[window][ring])
        rows = np.arange(window[0].start, window[0].stop)[:, None]
        contact = ring & (rows >= y + h * (1 - CONTACT_SHARE))
        if contact.sum() >= 8:
            inverse_depth = max(inverse_depth, np.median(values[window][contact]))
        if previous is not None:
            before = np.median(previous[window][region > 0])
            inverse_depth = before + FOLLOW * (inverse_depth - before)
        depth[window][region > 0] = inverse_depth
        sure[window][region > 0] = MOVER_WEIGHT
    return depth, sure
