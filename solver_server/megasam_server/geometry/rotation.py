"""Rotations, batched."""

from __future__ import annotations

import numpy as np


def cross_matrix(v: np.ndarray) -> np.ndarray:
    """[v]x with [v]x w = v x w, float64 [...,3] -> [...,3,3]."""
    zero = np.zeros_like(v[..., 0])
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return np.stack(rows, axis=-1).reshape(*v.shape[:-1], 3, 3)


def rotation_from_vector(v: np.ndarray) -> np.ndarray:
    """Rotation matrices of rotation vectors (radians), float64 [...,3] -> [...,3,3] (Rodrigues)."""
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    k = cross_matrix(v)
    small = angle < 1e-8
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 1.0, np.sin(safe) / safe)
    second = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    return np.eye(3) + first * k + second * (k @ k)


def nearest_rotation(m: np.ndarray) -> np.ndarray:
    """The rotation closest to each matrix in the Frobenius norm, [...,3,3] -> [...,3,3]."""
    u, _, vt = np.linalg.svd(m)
    u[..., :, 2] *= np.linalg.det(u @ vt)[..., None]
    return u @ vt


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle of the rotation from a to b, radians, [...,3,3] x [...,3,3] -> [...].

    Taken from |a - b|_F = 2 sqrt(2) sin(angle/2), which stays exact for tiny angles where arccos
    does not.
    """
    return 2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=(-2, -1)) / np.sqrt(8), 0, 1))
