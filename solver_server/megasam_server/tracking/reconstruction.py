"""Structure from motion over keyframes, in the order in which a video shows the scene.

Two keyframes with parallax start it; every further keyframe is placed by the points it sees (pycolmap's robust
absolute pose), new points are triangulated, everything is adjusted. What does not fit the one rigid world, such as
people and cars, drops out as it fails the reprojection test.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pycolmap

from megasam_server.tracking.bundle import BundleOptions, Observations, Scene, adjust
from megasam_server.tracking.tracks import Tracks
from megasam_server.tracking.triangulation import directions, triangulate

_PNP_PX = 6.0
_MIN_PNP_INLIERS = 20
_LOCAL_CAMERAS = 6


class Reconstruction:
    """K keyframes, T tracks, and which of them are part of the model.

    Attributes:
        scene: cameras and points; rows that are not part of the model yet hold no meaning.
        registered: bool [K]. triangulated: bool [T].
        seen: all observations. active: bool [M], agrees with the model.
        options: what the adjustments may move.
        outlier_px: observations farther than this from the model are set inactive.
    """

    def __init__(
        self,
        tracks: Tracks,
        num_cameras: int,
        focal_px: float,
        size: tuple[int, int],
        options: BundleOptions,
        outlier_px: float = 3.0,
    ) -> None:
        """``tracks`` hold camera positions 0..K-1 as frames; ``size`` is (width, height) in pixels."""
        centre = (np.array(size) - 1) / 2
        self.size = size
        self.options = options
        self.outlier_px = outlier_px
        self.seen = Observations(tracks.frame, tracks.track, tracks.xy - centre)
        self.scene = Scene(
            np.tile(np.eye(3), (num_cameras, 1, 1)),
            np.zeros((num_cameras, 3)),
            np.full(num_cameras, float(focal_px)),
            np.tile([0.0, 0.0, 1.0, 0.0], (tracks.num_tracks, 1)),
        )
        self.registered = np.zeros(num_cameras, bool)
        self.triangulated = np.zeros(tracks.num_tracks, bool)
        self.active = np.ones(len(self.seen.camera), bool)

    @classmethod
    def copy_of(cls, other: Reconstruction) -> Reconstruction:
        """A copy whose scene and choices can change without touching the other; the observations are shared."""
        model = copy.copy(other)
        model.scene = copy.deepcopy(other.scene)
        model.registered, model.triangulated = other.registered.copy(), other.triangulated.copy()
        model.active = other.active.copy()
        return model

    @property
    def used(self) -> np.ndarray:
        """Observations that take part in the adjustment, bool [M]."""
        return self.active & self.registered[self.seen.camera] & self.triangulated[self.seen.point]

    def camera_model(self, focal_px: float) -> pycolmap.Camera:
        """The camera for pycolmap's estimators, principal point at the origin of our pixels."""
        width, height = self.size
        return pycolmap.Camera(
            model="SIMPLE_PINHOLE", width=width, height=height, params=[focal_px, 0.0, 0.0]
        )

    def start(self, first: int, second: int) -> bool:
        """Place two keyframes by their relative pose and triangulate; False when they do not fit."""
        geometry, ids, inliers = relative_pose(
            self.seen, first, second, self.camera_model(self.scene.focal[0])
        )
        if geometry is None or len(inliers) < _MIN_PNP_INLIERS:
            return False
        matrix = geometry.cam2_from_cam1.matrix()
        self.scene.rotation[first], self.scene.translation[first] = np.eye(3), 0
        self.scene.rotation[second], self.scene.translation[second] = matrix[:, :3], matrix[:, 3]
        self.registered[[first, second]] = True
        self.extend_points(ids[inliers])
        return bool(self.triangulated.sum() >= _MIN_PNP_INLIERS)

    def extend_points(self, candidates: np.ndarray | None = None) -> None:
        """Triangulate tracks seen by two or more registered keyframes; keep those that fit all but a few sightings."""
        if candidates is None:
            candidates = np.flatnonzero(~self.triangulated)
        open_track = np.zeros(len(self.triangulated), bool)
        open_track[candidates] = True
        rows = np.flatnonzero(self.registered[self.seen.camera] & open_track[self.seen.point])
        seen = self.seen.select(rows)
        enough = np.bincount(seen.point, minlength=len(open_track)) >= 2
        ids = np.flatnonzero(enough)
        if not len(ids):
            return
        points = self.scene.points
        locate = triangulate if self.options.translate else directions
        points[ids] = locate(self.scene, seen, ids)
        error = np.linalg.norm(self.scene.residuals(seen), axis=1)
        fits = error < self.outlier_px
        good = np.bincount(seen.point, fits, len(open_track))
        total = np.bincount(seen.point, minlength=len(open_track))
        accepted = enough & (good >= 2) & (good >= 0.7 * total)
        self.triangulated |= accepted
        self.active[rows] = np.where(accepted[seen.point], fits, self.active[rows])

    def register(self, camera: int) -> bool:
        """Place one keyframe by the points it sees; False when too few agree."""
        rows = np.flatnonzero((self.seen.camera == camera) & self.triangulated[self.seen.point])
        if len(rows) < _MIN_PNP_INLIERS:
            return False
        if self.options.focal == "each":
            known = np.flatnonzero(self.registered)
            self.scene.focal[camera] = self.scene.focal[known[np.abs(known - camera).argmin()]]
        homogeneous = self.scene.points[self.seen.point[rows]]
        # A point at infinity serves as one that is very far.
        finite = homogeneous[:, :3] / np.maximum(homogeneous[:, 3:], 1e-4)
        options = pycolmap.AbsolutePoseEstimationOptions()
        options.ransac.max_error = _PNP_PX
        options.ransac.random_seed = 0
        answer = pycolmap.estimate_and_refine_absolute_pose(
            self.scene.focal[camera] * self.scene.straightened(self.seen.select(rows)),
            finite,
            self.camera_model(self.scene.focal[camera]),
            options,
        )
        if answer is None or answer["num_inliers"] < max(_MIN_PNP_INLIERS, 0.25 * len(rows)):
            return False
        matrix = answer["cam_from_world"].matrix()
        self.scene.rotation[camera], self.scene.translation[camera] = matrix[:, :3], matrix[:, 3]
        self.registered[camera] = True
        self.active[rows] = (
            np.linalg.norm(self.scene.residuals(self.seen.select(rows)), axis=1)
            < 2 * self.outlier_px
        )
        return True

    def adjust(self, around: int | None = None, **changes: object) -> float:
        """Bundle adjustment of the registered keyframes, or of those near ``around``.

        Args:
            around: a keyframe; only its neighbours move then, and the focal length is held.
            changes: fields of ``BundleOptions`` that differ from ``self.options`` this time.

        Returns:
            robust cost per observation, pixels squared.
        """
        options = replace(self.options, **changes)
        cameras = np.flatnonzero(self.registered)
        rows = self.used
        if around is not None:
            near = cameras[np.argsort(np.abs(cameras - around))[:_LOCAL_CAMERAS]]
            local = np.zeros(len(self.triangulated), bool)
            local[self.seen.point[rows & np.isin(self.seen.camera, near)]] = True
            rows = rows & local[self.seen.point]
            cameras = np.unique(self.seen.camera[rows])
            fixed = ~np.isin(cameras, near)
            if fixed.sum() < 2:
                return self.adjust(**changes)
            focal = "each" if options.focal == "each" else "fixed"
            options = replace(options, fixed_cameras=fixed, focal=focal, distortion=False)
        seen = self.seen.select(rows)
        ids, point = np.unique(seen.point, return_inverse=True)
        camera = np.searchsorted(cameras, seen.camera)
        scene = self.scene
        part = Scene(
            scene.rotation[cameras],
            scene.translation[cameras],
            scene.focal[cameras],
            scene.points[ids],
            scene.k1,
        )
        part, summary = adjust(part, Observations(camera, point, seen.xy), options)
        scene.rotation[cameras], scene.translation[cameras] = part.rotation, part.translation
        scene.points[ids] = part.points
        self.scene = scene = replace(scene, k1=part.k1)
        if options.focal == "shared":
            scene.focal[:] = part.focal[0]
        else:
            scene.focal[cameras] = part.focal
        return summary.final_cost / max(len(seen.camera), 1)

    def truncated_cost(self) -> float:
        """Mean squared error over *all* observations, each capped at ``outlier_px`` squared.

        Compares models that explain different shares of the picture (MSAC, Torr & Zisserman 2000): what a model
        leaves out costs as much as an outlier.
        """
        return float(self.truncated_costs().mean())

    def truncated_costs(self) -> np.ndarray:
        """Squared error of each observation, capped at ``outlier_px`` squared, float64 [M]."""
        squared = (self.scene.residuals(self.seen) ** 2).sum(axis=1)
        explained = self.registered[self.seen.camera] & self.triangulated[self.seen.point]
        cap = self.outlier_px**2
        return np.where(explained, np.minimum(squared, cap), cap)

    def residual_px(self) -> np.ndarray:
        """Reprojection error of the used observations, pixels, float64."""
        return np.linalg.norm(self.scene.residuals(self.seen.select(self.used)), axis=1)

    def filter(self) -> None:
        """Let go of observations that no longer fit and take back those that do; drop points that lost their hold."""
        rows = np.flatnonzero(
            self.registered[self.seen.camera] & self.triangulated[self.seen.point]
        )
        seen = self.seen.select(rows)
        self.active[rows] = np.linalg.norm(self.scene.residuals(seen), axis=1) < self.outlier_px
        total = np.bincount(seen.point, minlength=len(self.triangulated))
        good = np.bincount(seen.point, self.active[rows], len(self.triangulated))
        self.triangulated &= (good >= 2) & (good >= 0.5 * total)

    def grow(self) -> None:
        """Register every keyframe that can be, nearest in time first, adjusting on the way."""
        refused: set[int] = set()
        adjusted_at = int(self.registered.sum())
        while not self.registered.all():
            camera = self._next_camera(refused)
            if camera is None:
                break
            if not self.register(camera):
                refused.add(camera)
                continue
            refused.clear()
            self.extend_points()
            count = int(self.registered.sum())
            if count < 8 or count >= 1.25 * adjusted_at:
                # Few views cannot tell the focal length from the depth yet.
                self.adjust(focal=self.options.focal if count >= 5 else "fixed", iterations=10)
                adjusted_at = count
            else:
                self.adjust(around=camera, iterations=5)
            self.filter()
        self.settle()

    def settle(self, rounds: int = 3, **changes: object) -> None:
        """Adjust, filter and complete until nothing much changes; ``changes`` as for :meth:`adjust`."""
        for _ in range(rounds):
            self.adjust(**changes)
            self.filter()
            self.extend_points()

    def _next_camera(self, refused: set[int]) -> int | None:
        """The unregistered keyframe beside a registered one that sees most of the model."""
        visible = np.bincount(
            self.seen.camera[self.triangulated[self.seen.point]], minlength=len(self.registered)
        )
        known = np.flatnonzero(self.registered)
        candidates = [c for c in np.flatnonzero(~self.registered) if c not in refused]
        if not candidates:
            return None
        distance = np.array([np.abs(known - c).min() for c in candidates])
        score = visible[candidates] / distance
        return int(candidates[int(score.argmax())])


def relative_pose(
    seen: Observations, first: int, second: int, camera: pycolmap.Camera
) -> tuple[pycolmap.TwoViewGeometry | None, np.ndarray, np.ndarray]:
    """Calibrated two-view geometry of a keyframe pair.

    Returns:
        geometry with pose and median triangulation angle (None when it does not fit), ids of the shared tracks, and
        indices of the inliers among them.
    """
    in_first, in_second = (
        np.flatnonzero(seen.camera == first),
        np.flatnonzero(seen.camera == second),
    )
    ids, a, b = np.intersect1d(seen.point[in_first], seen.point[in_second], return_indices=True)
    if len(ids) < _MIN_PNP_INLIERS:
        return None, ids, np.empty(0, int)
    options = pycolmap.TwoViewGeometryOptions()
    options.compute_relative_pose = True
    options.ransac.max_error = 2.0
    options.ransac.random_seed = 0
    matches = np.tile(np.arange(len(ids), dtype=np.uint32)[:, None], (1, 2))
    geometry = pycolmap.estimate_calibrated_two_view_geometry(
        camera, seen.xy[in_first[a]], camera, seen.xy[in_second[b]], matches, options
    )
    inliers = np.asarray(geometry.inlier_matches)
    if geometry.cam2_from_cam1 is None or not len(inliers):
        return None, ids, np.empty(0, int)
    return geometry, ids, inliers[:, 0].astype(int)
