"""Points from known cameras, many at a time."""

from __future__ import annotations

import numpy as np

from megasam_server.tracking.bundle import Observations, Scene


def triangulate(scene: Scene, seen: Observations, points: np.ndarray) -> np.ndarray:
    """Homogeneous points that best explain what the cameras saw.

    Linear triangulation (Hartley & Zisserman, 2nd ed., 12.2), each row scaled to unit bearing so that residuals are
    sines of angles; the smallest eigenvector of the 4x4 normal matrix. Points come out with unit length and w >= 0;
    one that would lie behind its first camera is turned round (it is then at or beyond infinity).

    Args:
        scene: cameras; its points are not used. seen: observations, ``point`` indexes into ``points``.
        points: which point indices to triangulate, int64 [Q].

    Returns:
        float64 [Q,4].
    """
    slot = np.full(seen.point.max(initial=-1) + 1, -1)
    slot[points] = np.arange(len(points))
    rows = np.flatnonzero(slot[seen.point] >= 0)
    camera, target = seen.camera[rows], slot[seen.point[rows]]
    bearing = bearings(scene, seen.select(rows))
    pose = np.concatenate([scene.rotation, scene.translation[:, :, None]], axis=2)[camera]
    # The part of [R|t] X that is orthogonal to the bearing must vanish.
    rejected = pose - bearing[:, :, None] * np.einsum("mi,mij->mj", bearing, pose)[:, None, :]
    normal = np.zeros((len(points), 16))
    blocks = np.einsum("mki,mkj->mij", rejected, rejected).reshape(-1, 16)
    for column in range(16):
        normal[:, column] = np.bincount(target, blocks[:, column], len(points))
    normal = normal.reshape(-1, 4, 4)
    _, vectors = np.linalg.eigh(normal)
    solved = vectors[:, :, 0]
    first = np.full(len(points), -1)
    first[target[::-1]] = camera[::-1]
    known = first >= 0
    z = np.zeros(len(points))
    z[known] = np.einsum("qj,qj->q", pose_row(scene, first[known]), solved[known])
    solved = np.where(z[:, None] < 0, -solved, solved)
    return solved


def directions(scene: Scene, seen: Observations, points: np.ndarray) -> np.ndarray:
    """Points at infinity in the mean direction in which the cameras saw them; as :func:`triangulate`."""
    slot = np.full(seen.point.max(initial=-1) + 1, -1)
    slot[points] = np.arange(len(points))
    rows = np.flatnonzero(slot[seen.point] >= 0)
    ray = bearings(scene, seen.select(rows))
    ray = np.einsum("mji,mj->mi", scene.rotation[seen.camera[rows]], ray)
    mean = np.zeros((len(points), 4))
    for axis in range(3):
        mean[:, axis] = np.bincount(slot[seen.point[rows]], ray[:, axis], len(points))
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def bearings(scene: Scene, seen: Observations) -> np.ndarray:
    """Unit viewing directions in the axes of each camera, float64 [M,3]."""
    ray = np.concatenate([scene.straightened(seen), np.ones((len(seen.xy), 1))], axis=1)
    return ray / np.linalg.norm(ray, axis=1, keepdims=True)


def pose_row(scene: Scene, cameras: np.ndarray) -> np.ndarray:
    """Third row of [R|t] of the cameras: depth of X is its product with X, float64 [K,4]."""
    return np.concatenate([scene.rotation[cameras, 2], scene.translation[cameras, 2:]], axis=1)
