"""Shapes that rays can hit, each in its own object space.

Rays are structure-of-arrays float32: one origin [3] and directions [3,M]. Distances are in units of
the direction vector, so directions with z = 1 in camera space give z-depth directly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from megasam_server.raycast.textures import Texture

NEAR = np.float32(0.05)  # nothing nearer than this is seen, in units of the ray direction
_MISS = np.float32(np.inf)


class Shape(Protocol):
    """Geometry in object space."""

    @property
    def half_extent(self) -> np.ndarray | None:
        """Half sizes [3] of the axis-aligned bounding box; None when unbounded."""

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Distance of each ray's first hit beyond ``NEAR``, float32 [M]; inf where it misses."""

    def surface(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At surface points [3,M]: normals [3,M], surface coordinates in metres [2,M], face [M]."""


@dataclass(frozen=True)
class Box:
    """Axis-aligned box around the origin; ``inside`` makes it a room seen from within.

    Faces: 0 = -x, 1 = +x, 2 = -y (top), 3 = +y (bottom), 4 = -z, 5 = +z.
    """

    half: tuple[float, float, float]
    inside: bool = False

    @property
    def half_extent(self) -> np.ndarray:
        return np.asarray(self.half)

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        enter = np.full(directions.shape[1], -_MISS, np.float32)
        leave = np.full(directions.shape[1], _MISS, np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            for axis in range(3):
                inverse = np.float32(1.0) / directions[axis]
                middle = inverse * np.float32(-origin[axis])
                reach = np.abs(inverse) * np.float32(self.half[axis])
                np.maximum(enter, middle - reach, out=enter)
                np.minimum(leave, middle + reach, out=leave)
        if self.inside:
            return np.where(leave > NEAR, leave, _MISS)
        return np.where((enter <= leave) & (enter > NEAR), enter, _MISS)

    def surface(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scaled = np.abs(points) / np.asarray(self.half, np.float32)[:, None]
        axis = np.argmax(scaled, axis=0)
        pixels = np.arange(points.shape[1])
        positive = points[axis, pixels] > 0
        normals = np.zeros_like(points)
        normals[axis, pixels] = np.where(positive != self.inside, 1.0, -1.0)
        u = np.where(axis == 0, points[2], points[0])
        v = np.where(axis == 1, points[2], points[1])
        return normals, np.stack([u, v]), 2 * axis + positive


@dataclass(frozen=True)
class Ground:
    """The endless plane y = 0, seen from above (negative y)."""

    half_extent = None

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            distance = np.float32(-origin[1]) / directions[1]
        return np.where(distance > NEAR, distance, _MISS)

    def surface(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        normals = np.zeros_like(points)
        normals[1] = -1.0
        return normals, points[[0, 2]], np.zeros(points.shape[1], np.intp)


@dataclass(frozen=True)
class Ellipsoid:
    """Ellipsoid around the origin."""

    radii: tuple[float, float, float]

    @property
    def half_extent(self) -> np.ndarray:
        return np.asarray(self.radii)

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        scale = 1.0 / np.asarray(self.radii, np.float32)
        start = (origin * scale).astype(np.float32)
        d = directions * scale[:, None]
        dd = np.einsum("im,im->m", d, d)
        nearest = -(start @ d) / dd
        # The distance of the ray from the centre, not b*b - a*c: that cancels for far small
        # spheres.
        offset = start[:, None] + nearest * d
        inside = 1.0 - np.einsum("im,im->m", offset, offset)
        entry = nearest - np.sqrt(np.maximum(inside, 0.0) / dd)
        return np.where((inside > 0) & (entry > NEAR), entry, _MISS)

    def surface(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        radii = np.asarray(self.radii, np.float32)[:, None]
        unit = points / radii
        normals = unit / radii
        normals /= np.linalg.norm(normals, axis=0)
        u = np.arctan2(unit[0], unit[2]) * max(self.radii[0], self.radii[2])
        v = np.arcsin(np.clip(unit[1], -1.0, 1.0)) * self.radii[1]
        return normals, np.stack([u, v]), np.zeros(points.shape[1], np.intp)


@dataclass(frozen=True)
class Cylinder:
    """Upright closed cylinder around the origin (axis y). Faces: 0 = side, 1 = the two ends."""

    radius: float
    half_height: float

    @property
    def half_extent(self) -> np.ndarray:
        return np.array([self.radius, self.half_height, self.radius])

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        d = directions[[0, 2]]
        start = origin[[0, 2]].astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            dd = np.einsum("im,im->m", d, d)
            nearest = -(start @ d) / dd
            offset = start[:, None] + nearest * d
            gap = self.radius**2 - np.einsum("im,im->m", offset, offset)
            half_chord = np.sqrt(np.maximum(gap, 0.0) / dd)
            middle = np.float32(-origin[1]) / directions[1]
            reach = np.float32(self.half_height) / np.abs(directions[1])
            enter = np.maximum(nearest - half_chord, middle - reach)
            leave = np.minimum(nearest + half_chord, middle + reach)
        return np.where((gap > 0) & (enter <= leave) & (enter > NEAR), enter, _MISS)

    def surface(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        radial = np.hypot(points[0], points[2])
        end = self.half_height - np.abs(points[1]) < self.radius - radial
        normals = np.zeros_like(points)
        normals[[0, 2]] = np.where(end, 0.0, points[[0, 2]] / np.maximum(radial, 1e-6))
        normals[1] = np.where(end, np.sign(points[1]), 0.0)
        u = np.where(end, points[0], np.arctan2(points[0], points[2]) * np.float32(self.radius))
        v = np.where(end, points[2], points[1])
        return normals, np.stack([u, v]), end.astype(np.intp)


_SIGNS = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, 8)


def rigid_inverse(pose: np.ndarray) -> np.ndarray:
    """Inverse of a rigid pose [4,4]."""
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return inverse


def at(x: float, y: float, z: float, yaw_deg: float = 0.0) -> np.ndarray:
    """Pose 4x4 at a place, turned about the vertical axis."""
    turn = np.radians(yaw_deg)
    pose = np.eye(4)
    pose[0, 0] = pose[2, 2] = np.cos(turn)
    pose[0, 2], pose[2, 0] = np.sin(turn), -np.sin(turn)
    pose[:3, 3] = x, y, z
    return pose


@dataclass(frozen=True)
class Primitive:
    """A shape somewhere in the world.

    Attributes:
        shape: its geometry.
        materials: one texture, or one for each face of the shape.
        world_from_object: float64 [4,4], rigid.
        moving: belongs to something that moves: ends up in the ground-truth masks.
        uv_offset: shift of the texture, metres; keeps equal textures from showing equal patches.
    """

    shape: Shape
    materials: tuple[Texture, ...]
    world_from_object: np.ndarray = field(default_factory=lambda: np.eye(4))
    moving: bool = False
    uv_offset: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def object_from_world(self) -> np.ndarray:
        """Inverse pose, float64 [4,4]."""
        return rigid_inverse(self.world_from_object)

    @cached_property
    def corners(self) -> np.ndarray:
        """Corners of the bounding box in the world, homogeneous [4,8]; nan when unbounded."""
        half = self.shape.half_extent
        if half is None:
            return np.full((4, 8), np.nan)
        return self.world_from_object @ np.vstack([_SIGNS * half[:, None], np.ones(8)])
