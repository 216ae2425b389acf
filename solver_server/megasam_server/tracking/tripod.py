"""The camera that only turns: rotations, focal length and directions of the points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from megasam_server.geometry.rotation import nearest_rotation
from megasam_server.tracking.bundle import BundleOptions
from megasam_server.tracking.reconstruction import Reconstruction
from megasam_server.tracking.tracks import Tracks
from megasam_server.tracking.triangulation import bearings

_SAMPLES = 200
_INLIER_PX = 3.0


def turn(
    tracks: Tracks,
    num_cameras: int,
    size: tuple[int, int],
    focals_px: list[float],
    options: BundleOptions,
) -> Reconstruction:
    """The rotation-only model that explains most of the tracks, over the starting focal lengths.

    Args and result as :func:`megasam_server.tracking.perspective.reconstruct`; it always has a
    result.
    """
    options = replace(options, translate=False)
    models = [_turn_from(tracks, num_cameras, size, focal, options) for focal in focals_px]
    return min(models, key=Reconstruction.truncated_cost)


def set_in_motion(tripod: Reconstruction) -> Reconstruction:
    """A moving camera that starts from the tripod's rotations, at rest, before points that are all equally far.

    With little parallax no pair of frames shows a baseline to start from, but all frames together do: the adjustment
    finds the small steps and then the depths (Yu & Gallup, "3D Reconstruction from Accidental Motion", CVPR 2014).
    """
    model = Reconstruction.copy_of(tripod)
    model.options = replace(tripod.options, translate=True)
    model.scene.points[:, 3] = 1.0
    model.scene.points[:] /= np.linalg.norm(model.scene.points, axis=1, keepdims=True)
    model.settle()
    return model


def _turn_from(
    tracks: Tracks, num_cameras: int, size: tuple[int, int], focal_px: float, options: BundleOptions
) -> Reconstruction:
    model = Reconstruction(tracks, num_cameras, focal_px, size, options)
    ray = bearings(model.scene, model.seen)
    random = np.random.default_rng(0)
    rotation = model.scene.rotation
    rows = [np.flatnonzero(model.seen.camera == camera) for camera in range(num_cameras)]
    for camera in range(1, num_cameras):
        _, a, b = np.intersect1d(
            model.seen.point[rows[camera - 1]], model.seen.point[rows[camera]], return_indices=True
        )
        step = relative_rotation(
            ray[rows[camera - 1][a]], ray[rows[camera][b]], _INLIER_PX / focal_px, random
        )
        rotation[camera] = step @ rotation[camera - 1]
    model.registered[:] = True
    # Chained rotations drift by more than an outlier: take everything in first, then tighten.
    tight = model.outlier_px
    for model.outlier_px in (8 * tight, 3 * tight):
        model.extend_points()
        model.adjust(loss_px=model.outlier_px / 3, iterations=15)
        model.filter()
    model.outlier_px = tight
    model.filter()
    model.extend_points()
    model.settle(rounds=2)
    return model


def relative_rotation(
    first: np.ndarray, second: np.ndarray, inlier: float, random: np.random.Generator
) -> np.ndarray:
    """Rotation with second = R first for most of the paired unit vectors [K,3].

    RANSAC on two pairs, then a fit to all that agree.

    Args:
        inlier: chord between unit vectors up to which a pair agrees.

    Returns:
        float64 [3,3]; identity when there are fewer than three pairs.
    """
    if len(first) < 3:
        return np.eye(3)
    pick = random.integers(0, len(first), (_SAMPLES, 2))
    covariance = np.einsum("ski,skj->sij", second[pick], first[pick])
    guesses = nearest_rotation(covariance)
    distance = np.linalg.norm(first @ np.swapaxes(guesses, 1, 2) - second, axis=2)
    best = np.minimum(distance, inlier).sum(axis=1).argmin()
    agrees = distance[best] < inlier
    if agrees.sum() < 3:
        return guesses[best]
    return nearest_rotation(second[agrees].T @ first[agrees])
