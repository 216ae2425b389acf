"""How well rigid motion explains each flow: a turn that corrects the camera, and the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megasam_server.flow.dense_frames import DenseFrames
from megasam_server.flow.flow_store import FlowStore
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.two_view import Sighting, TwoView, fit_inverse_depth, pixel_grid

GRID = 8
"""Every 8th pixel in both directions is enough for three unknowns and a quantile."""

TURN_PRIOR = np.radians(0.15)
"""How far a solved rotation may be off (one sigma); keeps unobservable turns at zero."""

LEAST_SIGMA = 0.08
"""Flow is never more accurate than this, pixels."""


@dataclass(frozen=True)
class RigidFit:
    """Per pair of a :class:`FlowStore`.

    Attributes:
        turn: rotation of camera j that makes its flow fit best, radians, float64 [P,3].
        sigma: standard deviation of static flow about the rigid prediction, pixels, float64 [P].
    """

    turn: np.ndarray
    sigma: np.ndarray


def inverse_depth_limits(near_inverse_depth: float) -> tuple[float, float]:
    """Inverse depths a static pixel may have, from the nearest points' (0 for a tripod)."""
    return 0.0, 4.0 * near_inverse_depth


def _turn_jacobian(view: TwoView, seen: np.ndarray) -> np.ndarray:
    """Derivative of pixels ``seen`` [2,M] of camera j by a turn of camera j (radians), [M,2,3]."""
    (fx, fy), (cx, cy) = view.focal, view.centre
    x, y = (seen[0] - cx) / fx, (seen[1] - cy) / fy
    rows_x = np.stack([-x * y, 1 + x * x, -y], axis=1) * fx
    rows_y = np.stack([-(1 + y * y), x * y, x], axis=1) * fy
    return np.stack([rows_x, rows_y], axis=1)


def _fit_one(
    cameras: CameraPath,
    i: int,
    j: int,
    pixels: np.ndarray,
    seen: np.ndarray,
    trust: np.ndarray,
    limits: tuple[float, float],
) -> tuple[np.ndarray, float]:
    """Turn [3] and sigma (NaN = unknown) of one pair: iteratively re-weighted Gauss-Newton.

    Of the turns on the way, from none to the last, the one with the least noise is taken.
    """
    turn, best = np.zeros(3), None
    for _ in range(6):
        view = TwoView.between(cameras, i, j, turn)
        infinity = view.at_infinity(pixels[0], pixels[1])
        sighting = Sighting(view, infinity, seen, trust)
        inverse_depth, _ = fit_inverse_depth([sighting], limits, iterations=2)
        predicted = view.project(infinity, inverse_depth)
        residual = (seen - predicted).T.astype(np.float64)
        usable = (trust > 0.5) & np.isfinite(residual).all(axis=1)
        if usable.sum() < 30:
            break
        # Where the depth is free, motion along the epipolar line says nothing about the turn.
        free = (inverse_depth > limits[0]) & (inverse_depth < limits[1])
        line = (view.epipole[:2, None] - predicted * view.epipole[2]).T
        length = np.linalg.norm(line, axis=1, keepdims=True)
        across = np.stack([-line[:, 1], line[:, 0]], axis=1) / np.maximum(length, 1e-9)
        jacobian = _turn_jacobian(view, predicted)
        error = np.linalg.norm(residual, axis=1)
        error_across = np.abs(np.sum(residual * across, axis=1))
        error = np.where(free, error_across, error)
        # A low percentile, in units of its value for |normal| (one equation) or Rayleigh (two) of
        # sigma 1: movers may take almost half of the picture and sit above it.
        unit_error = np.where(free, error / 0.385, error / 0.844)
        scale = max(float(np.quantile(unit_error[usable], 0.3)), LEAST_SIGMA)
        if best is None or scale < best[1]:
            best = turn, scale
        elif scale > 1.05 * best[1]:
            break
        weight = usable / np.square(1 + np.square(error / (3 * scale)))
        j_across = np.einsum("ma,mak->mk", across, jacobian)
        r_across = np.sum(across * residual, axis=1)
        w_one, w_two = weight * free, weight * ~free
        normal = np.einsum("m,mk,ml->kl", w_one, j_across, j_across)
        normal += np.einsum("m,mak,mal->kl", w_two, jacobian, jacobian)
        right = np.einsum("m,mk,m->k", w_one, j_across, r_across)
        right += np.einsum("m,mak,ma->k", w_two, jacobian, residual)
        # Neighbouring flow vectors share their error: 1/10 of them count as independent.
        prior = 10 * scale**2 / TURN_PRIOR**2
        step = np.linalg.solve(normal + prior * np.eye(3), right - prior * turn)
        turn = turn + step
        if np.abs(step).max() < 1e-5:
            break
    return best or (np.zeros(3), np.nan)


def fit_rigid(
    store: FlowStore,
    cameras: CameraPath,
    near_inverse_depth: np.ndarray,
    frames: DenseFrames,
    report: Callable[[int], None],
) -> RigidFit:
    """Fit every edge of the store; both directions share one result.

    Args:
        cameras: at the store's size.
        near_inverse_depth: [N] inverse depth of the nearest solved points; 0 = rotation only.
        frames: tells which pixels the artist left out.
        report: called with the number of frames done.
    """
    x, y = pixel_grid(store.height, store.width)
    x, y = np.broadcast_arrays(x, y)
    pixels = np.stack([x[::GRID, ::GRID].ravel(), y[::GRID, ::GRID].ravel()])
    turns, sigmas = np.zeros((len(store.pairs), 3)), np.full(len(store.pairs), np.nan)
    for p in range(0, len(store.pairs), 2):
        i, j = store.pairs[p]
        seen = pixels + store.flow(p)[:, ::GRID, ::GRID].reshape(2, -1)
        trust = store.trust(p)[::GRID, ::GRID].ravel()
        left_out = frames.left_out(int(i))
        if left_out is not None:
            trust = np.where(left_out[::GRID, ::GRID].ravel(), 0, trust)
        limits = inverse_depth_limits(near_inverse_depth[i])
        turns[p], sigmas[p : p + 2] = _fit_one(cameras, i, j, pixels, seen, trust, limits)
        # (exp(w) R)^-1 = exp(-R^T w) R^T: the way back needs the same turn, seen from camera i.
        j_from_i = cameras.world_from_cam[j, :3, :3].T @ cameras.world_from_cam[i, :3, :3]
        turns[p + 1] = -j_from_i.T @ turns[p]
        report(int(i) + 1)
    steps = np.abs(store.pairs[:, 1] - store.pairs[:, 0])
    for group in (steps == 1, steps > 1):
        known = sigmas[group & np.isfinite(sigmas)]
        usual = float(np.median(known)) if len(known) else 0.5
        # A pair that looks much cleaner than its kind is luck (blur, no texture).
        sigmas[group] = np.maximum(np.nan_to_num(sigmas[group], nan=2 * usual), 0.7 * usual)
    return RigidFit(turns, sigmas)
