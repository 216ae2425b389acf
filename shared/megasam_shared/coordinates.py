"""Cameras and points between the solver's axes and those of Maya and Blender.

| system  | world                      | camera                                        |
|---------|----------------------------|-----------------------------------------------|
| opencv  | x right, y down, z forward | looks along +Z, +Y is down in the picture     |
| maya    | Y-up, right-handed         | looks along -Z, +Y is up in the picture       |
| blender | Z-up, right-handed         | looks along -Z, +Y is up in the picture       |

The solver's world is its first camera, so a camera that solves to identity looks along +Z in
opencv, along -Z in maya and along +Y (level) in blender. Lengths are not changed.

Poses are 4x4, camera to world, acting on columns: the camera's position is the last column. Pan,
tilt and roll describe the same turn of the camera whatever the system:

    maya     R = Ry(pan) Rx(tilt) Rz(roll)
    blender  R = Rz(pan) Rx(90 deg + tilt) Rz(roll)
    opencv   R = Ry(-pan) Rx(tilt) Rz(-roll)
"""

from __future__ import annotations

from megasam_shared.errors import MegasamError
from megasam_shared.rotations import (
    Matrix,
    Matrix3,
    PanTiltRoll,
    pan_tilt_roll_from_rotation,
    rotation_from_pan_tilt_roll,
    unwrapped_pan_tilt_roll,
)

Matrix4 = tuple[tuple[float, float, float, float], ...]
Vector3 = tuple[float, float, float]

_IDENTITY: Matrix3 = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_HALF_TURN_ABOUT_X: Matrix3 = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
_Z_UP_FROM_Y_DOWN: Matrix3 = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))

# Per system: its world axes seen from OpenCV's, and its camera axes seen from OpenCV's.
_WORLD_FROM_OPENCV: dict[str, Matrix3] = {
    "maya": _HALF_TURN_ABOUT_X,
    "blender": _Z_UP_FROM_Y_DOWN,
    "opencv": _IDENTITY,
}
_CAMERA_FROM_OPENCV: dict[str, Matrix3] = {
    "maya": _HALF_TURN_ABOUT_X,
    "blender": _HALF_TURN_ABOUT_X,
    "opencv": _IDENTITY,
}

COORDINATE_SYSTEMS: tuple[str, ...] = tuple(_WORLD_FROM_OPENCV)


def camera_from_opencv(world_from_cam: Matrix, system: str) -> Matrix4:
    """A camera-to-world pose (4x4) from OpenCV axes, world and camera, to ``system``.

    Raises:
        MegasamError: ``unknown_coordinate_system``.
    """
    return _converted(
        world_from_cam,
        _axes(_WORLD_FROM_OPENCV, system),
        _transposed(_axes(_CAMERA_FROM_OPENCV, system)),
    )


def camera_to_opencv(world_from_cam: Matrix, system: str) -> Matrix4:
    """A camera-to-world pose (4x4) of ``system`` in OpenCV axes: the way back."""
    return _converted(
        world_from_cam,
        _transposed(_axes(_WORLD_FROM_OPENCV, system)),
        _axes(_CAMERA_FROM_OPENCV, system),
    )


def point_from_opencv(point: Vector3, system: str) -> Vector3:
    """A world point (or direction) from OpenCV axes to ``system``."""
    return _rotated(_axes(_WORLD_FROM_OPENCV, system), point)


def point_to_opencv(point: Vector3, system: str) -> Vector3:
    """A world point (or direction) of ``system`` in OpenCV axes."""
    return _rotated(_transposed(_axes(_WORLD_FROM_OPENCV, system)), point)


def camera_angles(world_from_cam: Matrix, system: str) -> PanTiltRoll:
    """Pan, tilt, roll (radians) of one camera given in ``system``; tilt within +-90 degrees."""
    return pan_tilt_roll_from_rotation(_in_maya(world_from_cam, system))


def camera_angles_over_time(world_from_cam: list[Matrix], system: str) -> list[PanTiltRoll]:
    """Pan, tilt, roll (radians) of consecutive cameras given in ``system``, unwrapped: no jumps."""
    return unwrapped_pan_tilt_roll(_in_maya(pose, system) for pose in world_from_cam)


def camera_from_angles(angles: PanTiltRoll, position: Vector3, system: str) -> Matrix4:
    """Camera-to-world pose of a camera with these angles at ``position``, both in ``system``."""
    in_maya = _pose(rotation_from_pan_tilt_roll(angles), (0.0, 0.0, 0.0))
    turned = camera_from_opencv(camera_to_opencv(in_maya, "maya"), system)
    return _pose([row[:3] for row in turned[:3]], position)


def position_of(world_from_cam: Matrix) -> Vector3:
    """The camera's position: last column of a camera-to-world pose."""
    return tuple(float(world_from_cam[row][3]) for row in range(3))


def _in_maya(world_from_cam: Matrix, system: str) -> Matrix4:
    if system == "maya":
        return world_from_cam
    return camera_from_opencv(camera_to_opencv(world_from_cam, system), "maya")


def _axes(table: dict[str, Matrix3], system: str) -> Matrix3:
    if system not in table:
        raise MegasamError(
            "unknown_coordinate_system",
            f"{system!r} is not a coordinate system.",
            f"Use one of {', '.join(COORDINATE_SYSTEMS)}.",
        )
    return table[system]


def _converted(pose: Matrix, world: Matrix3, camera: Matrix3) -> Matrix4:
    """``world @ pose @ camera`` with the 3x3 changes of axes padded to 4x4."""
    rotation = _product(_product(world, [row[:3] for row in pose[:3]]), camera)
    return _pose(rotation, _rotated(world, position_of(pose)))


def _pose(rotation: Matrix, position: Vector3) -> Matrix4:
    rows = [(*row, float(t)) for row, t in zip(rotation, position, strict=True)]
    return (*rows, (0.0, 0.0, 0.0, 1.0))


def _product(first: Matrix, second: Matrix) -> Matrix3:
    columns = list(zip(*second, strict=True))
    return tuple(_rotated(columns, row) for row in first)


def _rotated(matrix: Matrix, vector: Vector3) -> Vector3:
    # "+ 0.0" turns -0.0 into 0.0: files shall not say "-0".
    return tuple(
        float(sum(a * b for a, b in zip(row, vector, strict=True))) + 0.0 for row in matrix
    )


def _transposed(matrix: Matrix3) -> Matrix3:
    return tuple(zip(*matrix, strict=True))
