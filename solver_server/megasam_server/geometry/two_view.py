"""How a picture moves from one solved camera to another, and inverse depth from such motion.

With inverse z-depth r = 1/z of pixel x (homogeneous) in camera i, its image in camera j is
x_j ~ K_j R K_i^-1 x + r K_j t (Hartley and Zisserman, Multiple View Geometry, eq. 9.7 divided by
z): a homography of the plane at infinity plus r times the epipole. It is linear in r.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from megasam_server.geometry.camera import CameraPath


@dataclass(frozen=True)
class TwoView:
    """From camera i to camera j, in pixels with centres at integers.

    Attributes:
        homography: K_j R K_i^-1, float64 [3,3], scaled so that depth keeps its meaning (no
            normalisation).
        epipole: K_j t, float64 [3]; the homogeneous image of camera i's centre in camera j.
        focal, centre: of camera j, each a pair (x, y), pixels.
    """

    homography: np.ndarray
    epipole: np.ndarray
    focal: tuple[float, float]
    centre: tuple[float, float]

    @classmethod
    def between(
        cls, cameras: CameraPath, i: int, j: int, turn: np.ndarray | None = None
    ) -> TwoView:
        """Cameras ``i`` and ``j``; ``turn`` [3] (radians) rotates camera j about its centre."""
        poses = cameras.world_from_cam
        j_from_world = np.linalg.inv(poses[j])
        j_from_i = j_from_world @ poses[i]
        rotation, translation = j_from_i[:3, :3], j_from_i[:3, 3]
        if turn is not None:
            extra = cv2.Rodrigues(np.asarray(turn, dtype=np.float64).reshape(3, 1))[0]
            rotation, translation = extra @ rotation, extra @ translation
        k = cameras.intrinsics
        k_j = np.array([[k.fx[j], 0, k.cx[j]], [0, k.fy[j], k.cy[j]], [0, 0, 1.0]])
        k_i_inverse = np.array(
            [
                [1 / k.fx[i], 0, -k.cx[i] / k.fx[i]],
                [0, 1 / k.fy[i], -k.cy[i] / k.fy[i]],
                [0, 0, 1.0],
            ]
        )
        return cls(
            k_j @ rotation @ k_i_inverse,
            k_j @ translation,
            (float(k.fx[j]), float(k.fy[j])),
            (float(k.cx[j]), float(k.cy[j])),
        )

    def plane_homography(self, inverse_depth: float) -> np.ndarray:
        """Homography of the plane z = 1 / ``inverse_depth`` of camera i, float64 [3,3]."""
        homography = self.homography.copy()
        homography[:, 2] += inverse_depth * self.epipole
        return homography

    def at_infinity(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Homogeneous images of pixels (``x``, ``y``) at infinite depth, float32 [3, ...]."""
        h = self.homography.astype(np.float32)
        return np.stack(np.broadcast_arrays(*(row[0] * x + (row[1] * y + row[2]) for row in h)))

    def project(self, infinity: np.ndarray, inverse_depth: np.ndarray | float) -> np.ndarray:
        """Pixels in camera j of pixels whose :meth:`at_infinity` is ``infinity``, float32 [2, ...].

        A point at or behind camera j's plane gives NaN.
        """
        e = self.epipole.astype(np.float32)
        z = infinity[2] + inverse_depth * e[2]
        z = np.where(z > 1e-6, z, np.float32(np.nan))
        return np.stack(
            [(infinity[0] + inverse_depth * e[0]) / z, (infinity[1] + inverse_depth * e[1]) / z]
        )

    def arriving_inverse_depth(self, infinity: np.ndarray, inverse_depth: np.ndarray) -> np.ndarray:
        """Inverse depth in camera j of pixels with ``inverse_depth`` in camera i; NaN behind j."""
        z = infinity[2] + inverse_depth * np.float32(self.epipole[2])
        return inverse_depth / np.where(z > 1e-6, z, np.float32(np.nan))


def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates x [1,width], y [height,1], float32, that broadcast to the picture."""
    return (
        np.arange(width, dtype=np.float32)[None, :],
        np.arange(height, dtype=np.float32)[:, None],
    )


@dataclass(frozen=True)
class Sighting:
    """One measurement of every pixel of a frame: where it is seen from another camera.

    Attributes:
        view: the two cameras.
        infinity: ``view.at_infinity`` of the frame's pixels, float32 [3, ...].
        seen: measured pixel in the other frame, float32 [2, ...].
        weight: 1 / variance of ``seen``, 1/px^2, float32 [...]; 0 = not measured.
    """

    view: TwoView
    infinity: np.ndarray
    seen: np.ndarray
    weight: np.ndarray

    def residual(self, inverse_depth: np.ndarray) -> np.ndarray:
        """Distance of measured and predicted pixel, px, float32 [...]; 1e3 behind the camera."""
        difference = self.view.project(self.infinity, inverse_depth) - self.seen
        return np.nan_to_num(np.hypot(difference[0], difference[1]), nan=1e3)


def fit_inverse_depth(
    sightings: list[Sighting],
    limits: tuple[float, float],
    iterations: int = 3,
    outlier_sigma: float = 3.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth of every pixel: robust least squares over its sightings, within ``limits``.

    Each sighting gives two equations linear in r, (e_x - u e_z) r = u a_z - a_x and the same for y;
    dividing by the depth in the other camera turns them into pixels, and Geman-McClure weights at
    ``outlier_sigma`` keep one wrong sighting from spoiling the rest (both by re-weighting).

    Returns:
        inverse depth and its information (1 / variance), float32 [...]; information 0 = nothing
        known.
    """
    low, high = np.float32(limits)
    shape = sightings[0].weight.shape
    estimate = np.zeros(shape, np.float32)
    information = np.zeros(shape, np.float32)
    coefficients = []
    for s in sightings:
        e = s.view.epipole.astype(np.float32)
        cx, cy = e[0] - s.seen[0] * e[2], e[1] - s.seen[1] * e[2]
        bx = s.seen[0] * s.infinity[2] - s.infinity[0]
        by = s.seen[1] * s.infinity[2] - s.infinity[1]
        coefficients.append((cx * bx + cy * by, cx * cx + cy * cy, e[2]))
    for iteration in range(iterations):
        numerator = np.zeros(shape, np.float32)
        information = np.zeros(shape, np.float32)
        for s, (cb, cc, e_z) in zip(sightings, coefficients, strict=True):
            z = np.maximum(s.infinity[2] + estimate * e_z, np.float32(0.05))
            weight = s.weight / (z * z)
            if iteration:
                chi2 = s.weight * np.square(s.residual(estimate))
                weight *= np.square(1 / (1 + chi2 / np.float32(outlier_sigma**2)))
            numerator += weight * cb
            information += weight * cc
        estimate = np.clip(numerator / np.maximum(information, 1e-20), low, high)
    return estimate, information
