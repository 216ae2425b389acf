"""Rotation matrices as pan, tilt, roll and as quaternions.

Rotation matrices are 3x3, world from camera, acting on columns. Pan, tilt and roll are those of a
Y-up camera that looks along -Z: ``R = Ry(pan) Rx(tilt) Rz(roll)``, Maya's rotate order zxy with
rotateX = tilt, rotateY = pan, rotateZ = roll. +pan looks left, +tilt looks up, +roll turns the up
vector towards -X. All angles are radians.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import atan2, cos, hypot, pi, sin, sqrt, tau
from typing import NamedTuple

Matrix = Sequence[Sequence[float]]
Matrix3 = tuple[tuple[float, float, float], ...]

# Below this cosine of the tilt the camera points straight up or down, and pan is free to choose.
_POLE_COSINE = 1e-9


class PanTiltRoll(NamedTuple):
    """Camera angles in radians; see the module for their signs and order."""

    pan: float
    tilt: float
    roll: float


def rotation_from_pan_tilt_roll(angles: PanTiltRoll) -> Matrix3:
    """Rotation matrix ``Ry(pan) Rx(tilt) Rz(roll)``."""
    pan, tilt, roll = angles
    cp, sp, ct, st, cr, sr = cos(pan), sin(pan), cos(tilt), sin(tilt), cos(roll), sin(roll)
    return (
        (cp * cr + sp * st * sr, sp * st * cr - cp * sr, sp * ct),
        (ct * sr, ct * cr, -st),
        (cp * st * sr - sp * cr, sp * sr + cp * st * cr, cp * ct),
    )


def pan_tilt_roll_from_rotation(
    rotation: Matrix, previous: PanTiltRoll | None = None
) -> PanTiltRoll:
    """Camera angles of a rotation matrix.

    Pan = atan2(R02, R22) as usual; tilt and roll are then read off ``Ry(-pan) R``, which equals
    Rx(tilt) Rz(roll), so that they make up for whatever error pan has near tilt = +-90 degrees.
    Straight up or down, where only pan -+ roll is determined, pan stays as in ``previous``, or 0.

    Args:
        rotation: 3x3 (or the upper left part of 4x4), orthonormal, determinant +1.
        previous: angles of the frame before. The result is then the nearest one of all equivalent
            angles (whole turns, and (pan + pi, pi - tilt, roll + pi)); without it tilt is within
            +-pi/2 and the others within +-pi.
    """
    r = rotation
    cos_tilt = hypot(r[0][2], r[2][2])
    pan_at_pole = previous.pan if previous else 0.0
    pan = atan2(r[0][2], r[2][2]) if cos_tilt > _POLE_COSINE else pan_at_pole
    cp, sp = cos(pan), sin(pan)
    # 0.0 - x, because -x would make a level camera's tilt -0.0.
    tilt = atan2(0.0 - r[1][2], sp * r[0][2] + cp * r[2][2])
    roll = atan2(sp * r[2][1] - cp * r[0][1], cp * r[0][0] - sp * r[2][0])
    angles = PanTiltRoll(pan, tilt, roll)
    return _nearest_equivalent(angles, previous) if previous else angles


def unwrapped_pan_tilt_roll(rotations: Iterable[Matrix]) -> list[PanTiltRoll]:
    """Camera angles of consecutive frames without jumps: each nearest to the frame before."""
    path: list[PanTiltRoll] = []
    for rotation in rotations:
        path.append(pan_tilt_roll_from_rotation(rotation, path[-1] if path else None))
    return path


def _nearest_equivalent(angles: PanTiltRoll, previous: PanTiltRoll) -> PanTiltRoll:
    flipped = PanTiltRoll(angles.pan + pi, pi - angles.tilt, angles.roll + pi)
    candidates = [
        PanTiltRoll(
            *(a + tau * round((b - a) / tau) for a, b in zip(option, previous, strict=True))
        )
        for option in (angles, flipped)
    ]
    return min(
        candidates, key=lambda c: sum((a - b) ** 2 for a, b in zip(c, previous, strict=True))
    )


def quaternion_xyzw_from_rotation(rotation: Matrix) -> tuple[float, float, float, float]:
    """Unit quaternion (x, y, z, w), w >= 0, of a 3x3 rotation matrix (or of 4x4's upper left part).

    Starts from the largest component, so it is exact for every rotation (Shepperd 1978).
    """
    (a, b, c), (d, e, f), (g, h, i) = (row[:3] for row in rotation[:3])
    trace = a + e + i
    largest = max(trace, a, e, i)
    if largest == trace:
        q = (h - f, c - g, d - b, 1 + trace)
    elif largest == a:
        q = (1 + a - e - i, b + d, c + g, h - f)
    elif largest == e:
        q = (b + d, 1 + e - a - i, f + h, c - g)
    else:
        q = (c + g, f + h, 1 + i - a - e, d - b)
    scale = 1 / hypot(*q)
    if q[3] < 0:
        scale = -scale
    return tuple(float(component * scale) for component in q)


def rotation_from_quaternion_xyzw(quaternion: Sequence[float]) -> Matrix3:
    """3x3 rotation matrix of a quaternion (x, y, z, w) of any length but zero."""
    x, y, z, w = quaternion
    s = 2 / (x * x + y * y + z * z + w * w)
    return (
        (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )


def rotation_error(rotation: Matrix) -> float:
    """How far 3x3 (or 4x4's upper left part) is from a rotation.

    Returns:
        The largest entry of |R^T R - I|; at least 1 for a mirror image (determinant -1).
    """
    columns = [[float(rotation[row][col]) for row in range(3)] for col in range(3)]
    largest = max(
        abs(sum(a * b for a, b in zip(columns[i], columns[j], strict=True)) - (i == j))
        for i in range(3)
        for j in range(3)
    )
    (a, b, c), (d, e, f), (g, h, i) = columns
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return max(largest, 1.0) if determinant <= 0 else largest


def angle_between(first: Matrix, second: Matrix) -> float:
    """Geodesic angle between two rotations, 0 to pi.

    From the Frobenius distance ``|A - B| = 2 sqrt(2) sin(angle / 2)``: precise for small angles,
    where the arc cosine of the trace is not.
    """
    squared = sum((first[i][j] - second[i][j]) ** 2 for i in range(3) for j in range(3))
    half_sine = min(1.0, sqrt(squared / 8))
    return 2 * atan2(half_sine, sqrt(1 - half_sine * half_sine))
