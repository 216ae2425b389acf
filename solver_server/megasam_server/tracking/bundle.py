"""Bundle adjustment of a video: poses, focal length and points, near or at infinity.

pycolmap's bundle adjustment wants finite points and a camera that moves. Plates often give neither: tripod shots have
no depth at all, long lenses have points that are as good as infinitely far, zooms have a focal length per frame. So
points are homogeneous here, X = (x, y, z, w) of unit length, w = 0 at infinity; a tripod shot is the same problem
with w and all translations held at 0 (Hartley & Zisserman, 2nd ed., A4.9.2 and A6.9). The points are eliminated
(:mod:`megasam_server.tracking.point_elimination`); the reduced system of the cameras is dense.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from megasam_server.geometry.rotation import cross_matrix, rotation_from_vector
from megasam_server.geometry.small_matrices import one_blas_thread
from megasam_server.tracking.point_elimination import PointElimination


@dataclass(frozen=True)
class Observations:
    """M sightings: camera index [M], point index [M], pixels relative to the principal point float64 [M,2]."""

    camera: np.ndarray
    point: np.ndarray
    xy: np.ndarray

    def select(self, keep: np.ndarray) -> Observations:
        return Observations(self.camera[keep], self.point[keep], self.xy[keep])


@dataclass(frozen=True)
class Scene:
    """What is being solved for.

    Attributes:
        rotation: cam_from_world rotations, float64 [N,3,3].
        translation: cam_from_world translations, float64 [N,3].
        focal: focal length of each camera, pixels, float64 [N].
        points: homogeneous world points of unit length, float64 [P,4], w >= 0.
        k1: radial distortion, one for the clip: a ray p = (x/z, y/z) appears at focal (1 + k1 |p|^2) p.
    """

    rotation: np.ndarray
    translation: np.ndarray
    focal: np.ndarray
    points: np.ndarray
    k1: float = 0.0

    def in_camera(self, seen: Observations) -> np.ndarray:
        """Points in the axes of the camera that sees them, up to scale, float64 [M,3]."""
        x = self.points[seen.point]
        turned = np.einsum("mij,mj->mi", self.rotation[seen.camera], x[:, :3])
        return turned + self.translation[seen.camera] * x[:, 3:]

    def residuals(self, seen: Observations) -> np.ndarray:
        """Projection minus observation, pixels, float64 [M,2]; huge for points behind the camera."""
        y = self.in_camera(seen)
        z = np.where(y[:, 2:] > 1e-9, y[:, 2:], np.nan)
        p = y[:, :2] / z
        bend = 1 + self.k1 * (p**2).sum(axis=1, keepdims=True)
        r = self.focal[seen.camera][:, None] * bend * p - seen.xy
        return np.where(np.isfinite(r), r, 1e4)

    def straightened(self, seen: Observations) -> np.ndarray:
        """Observations as rays (x/z, y/z) with the distortion taken out, float64 [M,2] (fixed-point iteration)."""
        bent = seen.xy / self.focal[seen.camera][:, None]
        rays = bent
        for _ in range(5 if self.k1 else 0):
            rays = bent / (1 + self.k1 * (rays**2).sum(axis=1, keepdims=True))
        return rays


@dataclass(frozen=True)
class BundleOptions:
    """What may move, and how errors count.

    Attributes:
        focal: ``fixed``, ``shared`` (one for the clip) or ``each`` (a zoom: one per camera, kept smooth).
        distortion: the radial distortion is solved for.
        translate: cameras move and points have depth; False for a tripod shot.
        fixed_cameras: bool [N], poses that stay; None = the first one stays.
        fixed_points: points stay (only the cameras are refined).
        loss_px: residuals beyond this many pixels lose weight (Cauchy).
        smooth_zoom: stiffness of ``each``: weight of the second difference of log focal length.
        iterations: at most.
        tolerance: stop when the cost falls by less than this share.
    """

    focal: str = "shared"
    distortion: bool = False
    translate: bool = True
    fixed_cameras: np.ndarray | None = None
    fixed_points: bool = False
    loss_px: float = 1.0
    smooth_zoom: float = 100.0
    iterations: int = 30
    tolerance: float = 1e-5


@dataclass(frozen=True)
class BundleSummary:
    """How it went: robust cost before and after (pixels squared, summed), iterations, converged."""

    initial_cost: float
    final_cost: float
    iterations: int
    converged: bool


def robust_cost(residuals: np.ndarray, loss_px: float) -> float:
    """Cauchy cost c^2 log(1 + |r|^2/c^2), summed; float64 [M,2] -> pixels squared."""
    c2 = loss_px**2
    return float(c2 * np.log1p((residuals**2).sum(axis=1) / c2).sum())


def adjust(scene: Scene, seen: Observations, options: BundleOptions) -> tuple[Scene, BundleSummary]:
    """Levenberg-Marquardt on the robust reprojection error.

    Args:
        scene: starting values; observations must lie in front of their cameras to count.
        seen: observations. options: what may move.

    Returns:
        the refined scene and a summary. Scale and world axes are those of the start (the first camera stays).
    """
    with one_blas_thread():
        return _adjust(scene, _NormalEquations(scene, seen, options))


def _adjust(scene: Scene, system: _NormalEquations) -> tuple[Scene, BundleSummary]:
    options = system.options
    cost = system.cost(scene)
    initial, damping = cost, 1e-4
    done = converged = 0
    while done < options.iterations and not converged:
        system.linearise(scene)
        for _ in range(8):
            candidate = system.step(scene, damping)
            new_cost = system.cost(candidate) if candidate is not None else np.inf
            if new_cost < cost:
                converged = (cost - new_cost) < options.tolerance * cost
                scene, cost, damping = candidate, new_cost, max(damping / 5, 1e-9)
                break
            damping *= 6
        else:
            converged = True
        done += 1
    return scene, BundleSummary(initial, cost, done, bool(converged))


class _NormalEquations:
    """One linearisation of the problem, with the points eliminated.

    Columns of the cameras: 3 rotation and 3 translation each; then log focal length, one for all or one each; then the
    distortion.
    """

    def __init__(self, scene: Scene, seen: Observations, options: BundleOptions) -> None:
        self.seen, self.options = seen, options
        num = len(scene.rotation)
        fixed = options.fixed_cameras
        if fixed is None:
            fixed = np.arange(num) == 0
        per_camera = 6 if options.translate else 3
        self.pose_column = np.full((num, 6), -1)
        free = np.flatnonzero(~fixed)
        columns = np.arange(len(free) * per_camera).reshape(len(free), per_camera)
        self.pose_column[free, :per_camera] = columns
        size = columns.size
        self.focal_column = np.full(num, -1)
        if options.focal == "shared":
            self.focal_column[:] = size
            size += 1
        elif options.focal == "each":
            self.focal_column[:] = size + np.arange(num)
            size += num
        self.distortion_column = -1
        if options.distortion:
            self.distortion_column = size
            size += 1
        self.size = size
        # Columns of each observation, -1 (held) is sent to a scrap column at the end.
        shared = np.full((num, 1), self.distortion_column)
        columns = np.concatenate([self.pose_column, self.focal_column[:, None], shared], axis=1)
        self.columns = np.where(columns < 0, size, columns)
        self.point_dof = 3 if options.translate else 2
        self.by_camera = np.argsort(seen.camera, kind="stable")
        self.camera_ends = np.searchsorted(seen.camera[self.by_camera], np.arange(num + 1))
        if not options.fixed_points:
            self.elimination = PointElimination(
                seen.camera, seen.point, self.columns, size, self.point_dof
            )

    def cost(self, scene: Scene) -> float:
        total = robust_cost(scene.residuals(self.seen), self.options.loss_px)
        if self.options.focal == "each":
            bend = np.diff(np.log(scene.focal), n=2)
            total += float((self.options.smooth_zoom * bend) @ (self.options.smooth_zoom * bend))
        return total

    def linearise(self, scene: Scene) -> None:
        seen, dof = self.seen, self.point_dof
        num_points = len(scene.points)
        residual = scene.residuals(seen)
        weight = 1 / (1 + (residual**2).sum(axis=1) / self.options.loss_px**2)
        y = scene.in_camera(seen)
        weight[y[:, 2] <= 1e-9] = 0
        root = np.sqrt(weight)[:, None, None]

        focal = scene.focal[seen.camera][:, None]
        inverse_z = 1 / np.where(y[:, 2:] > 1e-9, y[:, 2:], 1)
        ray = y[:, :2] * inverse_z
        squared = (ray**2).sum(axis=1, keepdims=True)
        bend = 1 + scene.k1 * squared
        # d pixel / d ray, then d ray / d y.
        on_ray = 2 * scene.k1 * ray[:, :, None] * ray[:, None, :]
        on_ray[:, [0, 1], [0, 1]] += bend
        on_ray *= (focal * inverse_z)[:, :, None] * root
        projection = np.concatenate([on_ray, -on_ray @ ray[:, :, None]], axis=2)
        x = scene.points[seen.point]
        turned = y - scene.translation[seen.camera] * x[:, 3:]
        on_camera = np.empty((len(y), 2, 8))
        on_camera[:, :, :3] = -projection @ cross_matrix(turned)
        on_camera[:, :, 3:6] = projection * x[:, 3, None, None]
        on_camera[:, :, 6] = root[:, :, 0] * focal * bend * ray
        on_camera[:, :, 7] = root[:, :, 0] * focal * squared * ray
        weighted = root[:, :, 0] * residual

        self.on_camera = on_camera
        self._sum_over_cameras(on_camera, weighted)
        if self.options.focal == "each":
            self._add_zoom_prior(scene)
        if self.options.fixed_points:
            return

        self.basis = tangent_basis(scene.points, dof)
        axes = np.concatenate([scene.rotation, scene.translation[:, :, None]], axis=2)
        self.on_point = on_point = projection @ (axes[seen.camera] @ self.basis[seen.point])
        point_index = seen.point[:, None] * dof * dof + np.arange(dof * dof)
        blocks = np.einsum("mki,mkj->mij", on_point, on_point)
        self.point_hessian = np.bincount(
            point_index.ravel(), blocks.ravel(), num_points * dof * dof
        ).reshape(num_points, dof, dof)
        point_index = seen.point[:, None] * dof + np.arange(dof)
        self.point_gradient = np.bincount(
            point_index.ravel(),
            np.einsum("mki,mk->mi", on_point, weighted).ravel(),
            num_points * dof,
        ).reshape(num_points, dof)

    def _sum_over_cameras(self, on_camera: np.ndarray, weighted: np.ndarray) -> None:
        """Their part of the system, from derivatives [M,2,8] and residuals [M,2]."""
        wide = self.size + 1
        self.hessian, self.gradient = np.zeros((wide, wide)), np.zeros(wide)
        rows, right = on_camera[self.by_camera], weighted[self.by_camera]
        for columns, begin, end in zip(
            self.columns, self.camera_ends[:-1], self.camera_ends[1:], strict=True
        ):
            seen_by_one = rows[begin:end].reshape(-1, rows.shape[2])
            # What is held shares the scrap column: several of a camera's may.
            np.add.at(self.hessian, np.ix_(columns, columns), seen_by_one.T @ seen_by_one)
            np.add.at(self.gradient, columns, right[begin:end].ravel() @ seen_by_one)
        self.hessian, self.gradient = self.hessian[:-1, :-1], self.gradient[:-1]

    def _add_zoom_prior(self, scene: Scene) -> None:
        column = self.focal_column
        second = np.zeros((len(column) - 2, self.size))
        rows = np.arange(len(column) - 2)
        for offset, value in enumerate((1.0, -2.0, 1.0)):
            second[rows, column[rows + offset]] = self.options.smooth_zoom * value
        bend = self.options.smooth_zoom * np.diff(np.log(scene.focal), n=2)
        self.hessian += second.T @ second
        self.gradient += second.T @ bend

    def step(self, scene: Scene, damping: float) -> Scene | None:
        """The scene after one damped Gauss-Newton step; None where the system cannot be solved."""
        diagonal = np.einsum("ii->i", self.hessian)
        reduced = self.hessian.copy()
        np.einsum("ii->i", reduced)[:] += damping * diagonal + 1e-9
        right = self.gradient
        point = self.seen.point
        if not self.options.fixed_points:
            damped = self.point_hessian.copy()
            np.einsum("pii->pi", damped)[:] += damping * np.einsum("pii->pi", damped) + 1e-9
            try:
                whitener = np.linalg.inv(np.linalg.cholesky(damped))  # L^-1
            except np.linalg.LinAlgError:
                return None
            on_point = self.on_point @ np.swapaxes(whitener, 1, 2)[point]
            whitened = np.einsum("mki,mkj->mij", self.on_camera, on_point)
            gradient = np.einsum("pij,pj->pi", whitener, self.point_gradient)
            right = right.copy()
            self.elimination.eliminate(reduced, right, whitened, gradient)
        try:
            factor = scipy.linalg.cho_factor(reduced, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        delta = -scipy.linalg.cho_solve(factor, right, check_finite=False)
        if not np.isfinite(delta).all():
            return None
        padded = np.append(delta, 0.0)
        pose = padded[self.pose_column]
        rotation = rotation_from_vector(pose[:, :3]) @ scene.rotation
        translation = scene.translation + pose[:, 3:]
        focal = scene.focal * np.exp(np.clip(padded[self.focal_column], -0.3, 0.3))
        k1 = scene.k1 + float(np.clip(padded[self.distortion_column], -0.1, 0.1))
        points = scene.points
        if not self.options.fixed_points:
            moves = padded[self.columns[self.seen.camera]]  # [M,8]
            shift = np.einsum("mkc,mc->mk", self.on_camera, moves)  # pixels, [M,2]
            pulled = np.einsum("mki,mk->mi", self.on_point, shift)
            back = self.point_gradient.copy()
            for freedom in range(self.point_dof):
                back[:, freedom] += np.bincount(point, pulled[:, freedom], len(points))
            moved = -np.einsum("pij,pik,pk->pj", whitener, whitener, back)
            points = points + np.einsum("pij,pj->pi", self.basis, moved)
            points = points / np.linalg.norm(points, axis=1, keepdims=True)
        return replace(
            scene, rotation=rotation, translation=translation, focal=focal, points=points, k1=k1
        )


def tangent_basis(points: np.ndarray, dof: int) -> np.ndarray:
    """Orthonormal directions in which unit vectors can move, float64 [P,4] -> [P,4,dof].

    ``dof`` 3: all directions orthogonal to the point. ``dof`` 2: those that keep w = 0 (points at infinity).
    Householder reflection of the first axes onto the complement.
    """
    size = dof + 1
    x = points[:, :size]
    sign = np.where(x[:, -1:] >= 0, 1.0, -1.0)
    v = x.copy()
    v[:, -1] += sign[:, 0] * np.linalg.norm(x, axis=1)
    beta = 2 / (v**2).sum(axis=1)
    reflection = np.eye(size) - beta[:, None, None] * v[:, :, None] * v[:, None, :]
    basis = np.zeros((len(points), 4, dof))
    basis[:, :size] = reflection[:, :, :dof]
    return basis
