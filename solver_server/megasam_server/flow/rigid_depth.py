"""The depth that every pixel would have if nothing moved: triangulated flow, and how sure it is.

Motion masks ask whether these depths can be true, video depth uses those that are. All of it lies
on a grid of every ``STRIDE``-th pixel and in units of the clip: inverse depth times a typical
depth, so that 1 is a typical surface. Weights are 1 / variance in these units: weight 100 is a
depth known to 10 % there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from megasam_server.flow.sightings import FlowSighting
from megasam_server.geometry.two_view import fit_inverse_depth

STRIDE = 2

MOST_WEIGHT = 1000.0
"""Flow errors of one frame share causes: no pixel is believed better than about 3 %."""

TEXTURE_GRADIENT = 3.0
"""Gradient along the epipolar line, grey levels per pixel, at which flow counts a quarter."""


@dataclass(frozen=True)
class RigidDepth:
    """Inverse depth (units of the clip) and weight, float32 [h/2,w/2]; weight 0 = not measured."""

    inverse_depth: np.ndarray
    weight: np.ndarray


class RigidDepthStore:
    """Rigid depth of all frames on disk, float16 [N,2,h/2,w/2].

    Attributes:
        unit: the typical depth that counts as 1, world units.
    """

    def __init__(self, path: Path, height: int, width: int, unit: float) -> None:
        self._path, self._shape, self.unit = path, (2, height, width), unit
        path.write_bytes(b"")

    def append(self, measured: RigidDepth) -> None:
        """Write the next frame."""
        with self._path.open("ab") as file:
            both = np.stack([measured.inverse_depth, measured.weight])
            file.write(both.astype(np.float16).tobytes())

    def read(self, frame: int) -> RigidDepth:
        """One frame, in memory."""
        size = int(np.prod(self._shape))
        flat = np.fromfile(self._path, np.float16, count=size, offset=2 * frame * size)
        return RigidDepth(*flat.reshape(self._shape).astype(np.float32))


Structure = tuple[np.ndarray, np.ndarray, np.ndarray]


def structure_tensor(grey: np.ndarray) -> Structure:
    """Gradient products (xx, xy, yy) about each grid pixel, mean of 7x7, (grey levels/pixel)^2."""
    smooth = cv2.GaussianBlur(grey, (5, 5), 1.0)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    xx, xy, yy = (cv2.blur(p, (7, 7))[::STRIDE, ::STRIDE] for p in (dx * dx, dx * dy, dy * dy))
    return xx, xy, yy


def texture_weight(structure: Structure) -> np.ndarray:
    """How well the picture pins the flow down in its worse direction, 0-1 float32 [h/2,w/2]."""
    xx, xy, yy = structure
    least = 0.5 * (xx + yy) - np.sqrt(0.25 * np.square(xx - yy) + xy * xy)
    least = np.maximum(least, 0)
    return least / (least + np.float32(TEXTURE_GRADIENT**2))


def weigh_along_epipolar_lines(sightings: list[FlowSighting], structure: Structure) -> None:
    """Lower weights in place where the picture cannot show motion in the direction of depth."""
    xx, xy, yy = structure
    for s in sightings:
        e, seen = s.sighting.view.epipole.astype(np.float32), s.sighting.seen
        x, y = e[0] - seen[0] * e[2], e[1] - seen[1] * e[2]
        energy = (x * x * xx + 2 * x * y * xy + y * y * yy) / np.maximum(x * x + y * y, 1e-12)
        s.sighting.weight[:] *= (
            np.square(energy / (energy + np.float32(TEXTURE_GRADIENT**2))) + 1e-6
        )


def triangulate(
    sightings: list[FlowSighting], limits: tuple[float, float], unit: float
) -> RigidDepth:
    """Triangulate all flow of one frame.

    The weight combines the angle and the noise (information of the least squares fit; the
    sightings' weights hold round trip and texture) with how well the sightings agree.

    Args:
        limits: inverse depths that static pixels may have, world units.
        unit: see :class:`RigidDepthStore`.
    """
    inverse_depth, information = fit_inverse_depth([s.sighting for s in sightings], limits)
    chi2, total = np.zeros_like(information), np.full_like(information, 1e-12)
    for s in sightings:
        error2 = np.minimum(np.square(s.sighting.residual(inverse_depth)) / s.sigma**2, 100)
        chi2 += s.sighting.weight * error2
        total += s.sighting.weight
    agreement = 1 / (1 + chi2 / total / 9)
    weight = np.minimum(information * np.float32(unit**-2), MOST_WEIGHT) * agreement
    return RigidDepth(inverse_depth * np.float32(unit), weight)
