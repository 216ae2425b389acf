"""How one window of a clip lies in the world of another: the similarity that the frames in both tell, and how well
they agree on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from megasam_shared.quality import WindowJoin

from megasam_server.geometry.rotation import angle_between
from megasam_server.geometry.trajectory import Similarity, align_orientations, mean_rotation

_STATIC = 0.5
# Of the normal distribution: standard deviation over median of the absolute deviations.
_SIGMA_PER_MAD = 1.4826
_OUTLIER = 3.0
# A frame that is off by no more than this is no outlier, however well the others fit: radians, and share of the depth.
_FITTING_ANGLE, _FITTING_SHIFT = np.radians(0.02), 1e-3
_ROUNDS = 10
# A scale that positions tell no better than this says nothing about that of the depths.
_KNOWN_SCALE = 0.02


@dataclass(frozen=True)
class SharedFrames:
    """What one window has of the S frames that are in both.

    Attributes:
        world_from_cam: float64 [S,4,4], in the window's own world.
        disparity: [S,h,w], 1/depth in the same world.
        static: [S,h,w] probability of being static.
    """

    world_from_cam: np.ndarray
    disparity: np.ndarray
    static: np.ndarray


def join_windows(
    first: SharedFrames, second: SharedFrames, numbers: tuple[int, int]
) -> tuple[Similarity, WindowJoin]:
    """Where the world of the second window lies in that of the first, and how far both disagree then.

    The rotation comes from the orientations, which show it on a tripod, too. The scale comes from the positions and
    from the depths of cells that are static in both, each as much as it agrees with itself: with little travel from
    the depths alone. Frames that do not fit the others do not count.

    Args:
        numbers: first and last of the frames, for the result.

    Raises:
        ValueError: no frame is shared.
    """
    if len(first.world_from_cam) == 0:
        raise ValueError("two windows that share no frame cannot be joined")
    ours, theirs = first.world_from_cam, second.world_from_cam
    rotation, angles = _rotation(theirs[:, :3, :3], ours[:, :3, :3])
    depth_scales = _depth_scales(first, second)  # [S], logarithms
    targets, sources = ours[:, :3, 3], theirs[:, :3, 3] @ rotation.T
    depth = 1 / np.median(first.disparity)
    upright = angles <= _limit(angles, _FITTING_ANGLE)
    inside = upright
    for _ in range(_ROUNDS):
        by_travel, travel_sigma = _travel_scale(targets[inside], sources[inside])
        by_depth, depth_sigma = np.median(depth_scales[inside]), _spread(depth_scales[inside])
        weights = 1 / (np.square([travel_sigma, depth_sigma]) + 1e-12)
        scale = float(np.exp(weights @ [by_travel, by_depth] / weights.sum()))
        shift = np.median(targets[inside] - scale * sources[inside], axis=0)
        off = np.linalg.norm(targets - scale * sources - shift, axis=1)
        fits = upright & (off <= _limit(off, _FITTING_SHIFT * depth))
        if not fits.any() or (fits == inside).all():
            break
        inside = fits
    rotation = align_orientations(theirs[inside, :3, :3], ours[inside, :3, :3])
    shift = (targets - scale * theirs[:, :3, 3] @ rotation.T)[inside].mean(axis=0)
    found = Similarity(scale, rotation, shift)
    moved = found.poses(theirs)
    distance = np.linalg.norm(moved[:, :3, 3] - targets, axis=1)
    turned = np.degrees(angle_between(moved[:, :3, :3], ours[:, :3, :3]))
    known = travel_sigma < _KNOWN_SCALE
    return found, WindowJoin(
        *numbers,
        rotation_deg=_rms(turned),
        translation_percent=100 * _rms(distance) / float(depth),
        scale_ratio=float(np.exp(by_travel - by_depth)) if known else None,
        inliers=float(inside.mean()),
    )


def _rotation(solved: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3,3] with the smallest sum of angles to those of the frames, and the angles [S], radians.

    Weiszfeld's algorithm (Hartley et al., "L1 rotation averaging using the Weiszfeld algorithm", CVPR 2011), with
    chordal means.
    """
    each = true @ np.swapaxes(solved, 1, 2)
    rotation = mean_rotation(each)
    for _ in range(_ROUNDS):
        angles = angle_between(each, rotation)
        rotation = mean_rotation(each / np.maximum(angles, 1e-9)[:, None, None])
    return rotation, angle_between(each, rotation)


def _depth_scales(first: SharedFrames, second: SharedFrames) -> np.ndarray:
    """Logarithm of (first's depth over second's), the median over each frame's static cells, [S]."""
    ratio = np.log(second.disparity) - np.log(first.disparity)
    static = (first.static > _STATIC) & (second.static > _STATIC)
    # A frame without a static cell has to do with all.
    static |= ~static.any(axis=(1, 2), keepdims=True)
    return np.array([np.median(r[s]) for r, s in zip(ratio, static, strict=True)])


def _travel_scale(targets: np.ndarray, sources: np.ndarray) -> tuple[float, float]:
    """Logarithm of the scale between two sets of positions [K,3] with the same axes, and its relative error.

    The ratio of their extents, which prefers neither side; 0 and infinite where there is no extent.
    """
    a, b = targets - np.median(targets, axis=0), sources - np.median(sources, axis=0)
    extents = _rms(np.linalg.norm(a, axis=1)), _rms(np.linalg.norm(b, axis=1))
    if min(extents) < 1e-12 or len(a) < 3:
        return 0.0, np.inf
    scale = extents[0] / extents[1]
    return float(np.log(scale)), _rms(np.linalg.norm(a - scale * b, axis=1)) / extents[0]


def _limit(values: np.ndarray, fitting: float) -> float:
    """Largest of non-negative values that is no outlier."""
    return max(_OUTLIER * _SIGMA_PER_MAD * float(np.median(values)), fitting)


def _spread(values: np.ndarray) -> float:
    return _SIGMA_PER_MAD * float(np.median(np.abs(values - np.median(values))))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
