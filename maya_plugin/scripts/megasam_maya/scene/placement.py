"""Where a solve lies in the scene: turned, scaled evenly, moved. Y-up, centimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import degrees, radians

from megasam_shared.coordinates import Vector3
from megasam_shared.rotations import (
    Matrix3,
    PanTiltRoll,
    pan_tilt_roll_from_rotation,
    rotation_from_pan_tilt_roll,
    rotation_from_quaternion_xyzw,
)

_UNTURNED: Matrix3 = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Placement:
    """The map point -> scale * rotation @ point + translation.

    Attributes:
        rotation: 3x3, acting on columns.
        scale: above 0.
        translation: cm.
    """

    rotation: Matrix3 = _UNTURNED
    scale: float = 1.0
    translation: Vector3 = (0.0, 0.0, 0.0)

    def point(self, point: Vector3) -> Vector3:
        """Where ``point`` (cm) comes to lie."""
        return added(scaled(turned(self.rotation, point), self.scale), self.translation)

    def after(self, first: Placement) -> Placement:
        """One placement that does ``first`` and then this one."""
        return Placement(
            product(self.rotation, first.rotation),
            self.scale * first.scale,
            self.point(first.translation),
        )

    def rotate_degrees(self) -> Vector3:
        """rotateX, rotateY, rotateZ for rotate order zxy."""
        angles = pan_tilt_roll_from_rotation(self.rotation)
        return degrees(angles.tilt), degrees(angles.pan), degrees(angles.roll)

    def to_numbers(self) -> list[float]:
        """13 numbers that :meth:`from_numbers` reads."""
        return [*(v for row in self.rotation for v in row), self.scale, *self.translation]

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> Placement:
        r, (scale, *translation) = numbers[:9], numbers[9:]
        return cls((tuple(r[:3]), tuple(r[3:6]), tuple(r[6:])), scale, tuple(translation))


def placement_from_rotate(rotate: Vector3, scale: float, translation: Vector3) -> Placement:
    """The placement of a node: rotate (degrees, order zxy), even scale, translate (cm)."""
    tilt, pan, roll = map(radians, rotate)
    return Placement(rotation_from_pan_tilt_roll(PanTiltRoll(pan, tilt, roll)), scale, translation)


def about(centre: Vector3, rotation: Matrix3) -> Placement:
    """Turn about a point that stays."""
    return Placement(rotation, translation=subtracted(centre, turned(rotation, centre)))


def rotation_between(source: Vector3, target: Vector3) -> Matrix3:
    """The shortest turn from one direction to another."""
    a, b = unit(source), unit(target)
    cosine = dot(a, b)
    if cosine < -1 + 1e-12:  # half a turn about any direction across
        across = cross(a, min(_UNTURNED, key=lambda e: abs(dot(e, a))))
        return rotation_from_quaternion_xyzw((*unit(across), 0.0))
    return rotation_from_quaternion_xyzw((*cross(a, b), 1 + cosine))


def product(first: Matrix3, second: Matrix3) -> Matrix3:
    columns = list(zip(*second, strict=True))
    return tuple(tuple(dot(row, column) for column in columns) for row in first)


def turned(rotation: Matrix3, vector: Vector3) -> Vector3:
    return tuple(dot(row, vector) for row in rotation)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cross(a: Vector3, b: Vector3) -> Vector3:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def unit(vector: Vector3) -> Vector3:
    """The direction of a vector that is not zero."""
    return scaled(vector, dot(vector, vector) ** -0.5)


def added(a: Vector3, b: Vector3) -> Vector3:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def subtracted(a: Vector3, b: Vector3) -> Vector3:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def scaled(vector: Vector3, factor: float) -> Vector3:
    return vector[0] * factor, vector[1] * factor, vector[2] * factor
