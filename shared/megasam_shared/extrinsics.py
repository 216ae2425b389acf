"""CAMERA_EXTRINSICS: the solved camera as the map that travels in JSON and msgpack.

What the entries mean in each ``coordinate_system``:

- ``matrix_c2w``: per frame a 4x4 list of rows, camera to world, acting on columns (position = last
  column). "maya": world Y-up, camera looks along its -Z. "blender": world Z-up, camera looks along
  its -Z; where the solver's world has the identity, it looks along +Y. "opencv": world and camera
  x right, y down, z forward.
- ``rotations[i]``: ``tx, ty, tz`` is that last column, so it depends on the system. ``pan, tilt,
  roll`` (radians) do not: they always describe the turn of the camera as seen in a Y-up world,
  unwrapped over time; +pan looks left, +tilt looks up, +roll turns the up vector towards -X. As
  matrices:

      maya     R = Ry(pan) Rx(tilt) Rz(roll)               rotate order zxy
      blender  R = Rz(pan) Rx(90 deg + tilt) Rz(roll)      Blender's Euler mode XYZ with
                                                           (90 deg + tilt, 0, pan) while roll is 0;
                                                           no Euler mode with roll: use matrix_c2w
      opencv   R = Ry(-pan) Rx(tilt) Rz(-roll)

- ``per_frame[i]``: the same with ``pan, tilt, roll`` in degrees, for readers that expect degrees.
- ``focal_length_px_per_frame``, ``principal_point`` [cx, cy]: plate pixels, square, corners at
  integers: the centre of the picture is (W/2, H/2). ``focal_length_px`` is the frames' median.
- Lengths are metres where ``scale_is_metric``, else arbitrary (``units_length`` says which); never
  centimetres: a client scales when it applies.
- ``frame`` counts from 0; ``frame_numbers[i]`` is that frame's number in the plate's file names.
- ``usable`` is false where no client may bake the camera without being told to.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import index
from statistics import median
from typing import Any

from megasam_shared.coordinates import (
    COORDINATE_SYSTEMS,
    camera_angles_over_time,
    camera_from_angles,
    camera_from_opencv,
    position_of,
)
from megasam_shared.errors import MegasamError
from megasam_shared.rotations import Matrix, PanTiltRoll, angle_between, rotation_error

FALLBACK_SOURCE = "MegaSAM_fallback"
SOURCES = ("MegaSAM", "Classical", FALLBACK_SOURCE)
ROTATE_ORDER = "zxy"
ANGLE_SIGN = "pan+ left, tilt+ up, roll+ ccw"
ANGLE_UNITS = "radians"
UNITS_LENGTH = {True: "metres", False: "arbitrary"}

# Poses may have gone through 32-bit floats or six printed digits, not through anything coarser.
_ROTATION_TOLERANCE = 1e-5
# Relative to the size of the numbers compared.
_POSITION_TOLERANCE = 1e-6
# Rounding of the change of axes, in solver units.
_STANDING_STILL = 1e-9


def build_extrinsics(
    *,
    world_from_cam: Sequence[Matrix],
    focal_px: Sequence[float],
    width: int,
    height: int,
    frame_numbers: Sequence[int],
    fps: float,
    coordinate_system: str,
    source: str,
    solving_method: str,
    status: str,
    scale_is_metric: bool,
    principal_point: tuple[float, float] | None = None,
    usable: bool = True,
) -> dict[str, Any]:
    """The CAMERA_EXTRINSICS map of a solved shot; plain JSON and msgpack types, already validated.

    Args:
        world_from_cam: [N][4][4] camera-to-world poses, OpenCV axes, in solver units.
        focal_px: [N] focal lengths, plate pixels.
        width, height: plate size, pixels.
        frame_numbers: [N] numbers of the frames in the plate, increasing.
        fps: frames per second of the plate.
        coordinate_system: of the result: ``maya``, ``blender`` or ``opencv``.
        source: one of :data:`SOURCES`.
        solving_method, status: one line each, for the artist.
        scale_is_metric: the poses' lengths are metres.
        principal_point: plate pixels, corners at integers; None for the centre of the picture.
        usable: False when no client may bake this camera without being told to.

    Raises:
        MegasamError: ``extrinsics_invalid`` when the solve is not fit to be written down: numbers
            that are not finite, lists of different lengths, matrices that are no rotations.
    """
    poses = [[[float(value) for value in row] for row in pose] for pose in world_from_cam]
    _check_poses(poses)
    if principal_point is None:
        principal_point = (width / 2, height / 2)
    matrices = [camera_from_opencv(pose, coordinate_system) for pose in poses]
    path = camera_angles_over_time(matrices, coordinate_system)
    positions = [position_of(matrix) for matrix in matrices]
    focals = [float(focal) for focal in focal_px]
    extrinsics = {
        "num_frames": len(matrices),
        "image_width": index(width),
        "image_height": index(height),
        "source": source,
        "solving_method": solving_method,
        "status": status,
        "usable": bool(usable) and source != FALLBACK_SOURCE,
        "coordinate_system": coordinate_system,
        "units": ANGLE_UNITS,
        "units_length": UNITS_LENGTH[bool(scale_is_metric)],
        "scale_is_metric": bool(scale_is_metric),
        "rotate_order": ROTATE_ORDER,
        "angle_sign": ANGLE_SIGN,
        "has_translation": any(math.dist(p, positions[0]) > _STANDING_STILL for p in positions),
        "fps": float(fps),
        "frame_numbers": [index(number) for number in frame_numbers],
        "focal_length_px": median(focals) if focals else math.nan,
        "focal_length_px_per_frame": focals,
        "principal_point": [float(c) for c in principal_point],
        "rotations": [_rotation_entry(*of_frame) for of_frame in _frames(path, positions)],
        "per_frame": [_degrees_entry(*of_frame) for of_frame in _frames(path, positions)],
        "matrix_c2w": [[list(row) for row in matrix] for matrix in matrices],
    }
    validate_extrinsics(extrinsics)
    return extrinsics


def _frames(path: list[PanTiltRoll], positions: list[tuple[float, float, float]]):
    return zip(range(len(path)), path, positions, strict=True)


def _rotation_entry(frame: int, angles: PanTiltRoll, position: Sequence[float]) -> dict[str, Any]:
    in_degrees = {f"{name}_deg": math.degrees(a) for name, a in angles._asdict().items()}
    return {"frame": frame, **angles._asdict(), **in_degrees, **_position_entry(position)}


def _degrees_entry(frame: int, angles: PanTiltRoll, position: Sequence[float]) -> dict[str, Any]:
    in_degrees = {name: math.degrees(a) for name, a in angles._asdict().items()}
    return {"frame": frame, **in_degrees, **_position_entry(position)}


def _position_entry(position: Sequence[float]) -> dict[str, float]:
    return dict(zip(("tx", "ty", "tz"), position, strict=True))


def validate_extrinsics(extrinsics: Any) -> None:
    """Check a CAMERA_EXTRINSICS map, for instance one that came over the wire, before it is used.

    Checked are the types, that every number is finite, that all lists have ``num_frames`` entries,
    that the matrices are rigid poses, and that angles, degrees and positions say what the matrices
    say. Unknown keys are ignored.

    Raises:
        MegasamError: ``extrinsics_invalid``, naming the entry, the frame and what is wrong.
    """
    if not isinstance(extrinsics, Mapping):
        raise _invalid(f"it is a {type(extrinsics).__name__}, not a map")
    _check_header(extrinsics)
    num_frames = extrinsics["num_frames"]
    _check_lens(extrinsics, num_frames)
    _check_frame_numbers(_list(extrinsics, "frame_numbers", num_frames))
    matrices = _list(extrinsics, "matrix_c2w", num_frames)
    _check_poses(matrices)
    rotations = _list(extrinsics, "rotations", num_frames)
    per_frame = _list(extrinsics, "per_frame", num_frames)
    system = extrinsics["coordinate_system"]
    for i, (matrix, entry, degrees) in enumerate(zip(matrices, rotations, per_frame, strict=True)):
        _check_rotation_entry(i, entry, matrix, system)
        _check_degrees_entry(i, degrees, entry)


def _check_header(extrinsics: Mapping) -> None:
    for key in ("num_frames", "image_width", "image_height"):
        value = _entry(extrinsics, key)
        if not _is_int(value) or value < 1:
            raise _invalid(f"{key} is {value!r}, not a whole number of at least 1")
    if not _is_number(_entry(extrinsics, "fps")) or extrinsics["fps"] <= 0:
        raise _invalid(f"fps is {extrinsics['fps']!r}, not a number above 0")
    for key in ("solving_method", "status"):
        if not isinstance(_entry(extrinsics, key), str):
            raise _invalid(f"{key} is {extrinsics[key]!r}, not text")
    for key in ("has_translation", "scale_is_metric", "usable"):
        if not isinstance(_entry(extrinsics, key), bool):
            raise _invalid(f"{key} is {extrinsics[key]!r}, not true or false")
    for key, allowed in (
        ("source", SOURCES),
        ("coordinate_system", COORDINATE_SYSTEMS),
        ("units", (ANGLE_UNITS,)),
        ("rotate_order", (ROTATE_ORDER,)),
        ("angle_sign", (ANGLE_SIGN,)),
        ("units_length", (UNITS_LENGTH[extrinsics["scale_is_metric"]],)),
    ):
        if _entry(extrinsics, key) not in allowed:
            raise _invalid(f"{key} is {extrinsics[key]!r}, not {' or '.join(allowed)}")
    if extrinsics["source"] == FALLBACK_SOURCE and extrinsics["usable"]:
        raise _invalid(f"source is {FALLBACK_SOURCE}, yet usable is true")


def _check_lens(extrinsics: Mapping, num_frames: int) -> None:
    focals = _list(extrinsics, "focal_length_px_per_frame", num_frames)
    for frame, focal in enumerate(focals):
        if not _is_number(focal) or focal <= 0:
            raise _invalid(f"focal_length_px_per_frame[{frame}] is {focal!r}, not above 0")
    focal = _entry(extrinsics, "focal_length_px")
    if not _is_number(focal) or not min(focals) <= focal <= max(focals):
        raise _invalid(f"focal_length_px is {focal!r}, outside focal_length_px_per_frame")
    centre = _list(extrinsics, "principal_point", 2)
    if not all(_is_number(c) for c in centre):
        raise _invalid(f"principal_point is {centre!r}, not two finite numbers")


def _check_frame_numbers(numbers: Sequence) -> None:
    for number in numbers:
        if not _is_int(number):
            raise _invalid(f"frame_numbers holds {number!r}, not a whole number")
    for number, following in pairwise(numbers):
        if following <= number:
            raise _invalid(f"frame_numbers go from {number} to {following}, not upwards")


def _check_poses(poses: Sequence[Matrix]) -> None:
    for frame, pose in enumerate(poses):
        where = f"the pose of frame index {frame}"
        if not _is_list_of(4, pose) or not all(_is_list_of(4, row) for row in pose):
            raise _invalid(f"{where} is not 4x4")
        if not all(_is_number(value) for row in pose for value in row):
            raise _invalid(f"{where} holds something that is not a finite number")
        if tuple(pose[3]) != (0, 0, 0, 1):
            raise _invalid(f"{where} has the last row {list(pose[3])}, not 0 0 0 1")
        error = rotation_error(pose)
        if error > _ROTATION_TOLERANCE:
            raise _invalid(f"{where} is not a rotation (orthonormal to {error:.1e})")


def _check_rotation_entry(frame: int, entry: Any, matrix: Matrix, system: str) -> None:
    _check_entry(f"rotations[{frame}]", entry, frame, (*PanTiltRoll._fields, "tx", "ty", "tz"))
    angles = PanTiltRoll(entry["pan"], entry["tilt"], entry["roll"])
    position = (entry["tx"], entry["ty"], entry["tz"])
    if angle_between(camera_from_angles(angles, position, system), matrix) > _ROTATION_TOLERANCE:
        raise _invalid(f"rotations[{frame}] turns the camera otherwise than matrix_c2w[{frame}]")
    tolerance = _POSITION_TOLERANCE * max(1.0, *map(abs, position))
    if math.dist(position, position_of(matrix)) > tolerance:
        raise _invalid(f"rotations[{frame}] puts the camera elsewhere than matrix_c2w[{frame}]")
    in_degrees = {name: entry.get(f"{name}_deg") for name in PanTiltRoll._fields}
    _check_degrees(f"rotations[{frame}]", in_degrees, angles)


def _check_degrees_entry(frame: int, entry: Any, rotation: Mapping) -> None:
    _check_entry(f"per_frame[{frame}]", entry, frame, PanTiltRoll._fields)
    angles = PanTiltRoll(rotation["pan"], rotation["tilt"], rotation["roll"])
    _check_degrees(f"per_frame[{frame}]", entry, angles)


def _check_degrees(where: str, in_degrees: Mapping, angles: PanTiltRoll) -> None:
    for name, radians in angles._asdict().items():
        value = in_degrees[name]
        if not _is_number(value) or abs(math.radians(value) - radians) > _ROTATION_TOLERANCE:
            raise _invalid(f"{where} gives {name} as {value!r} degrees and {radians!r} radians")


def _check_entry(where: str, entry: Any, frame: int, numbers: Sequence[str]) -> None:
    if not isinstance(entry, Mapping):
        raise _invalid(f"{where} is a {type(entry).__name__}, not a map")
    if entry.get("frame") != frame:
        raise _invalid(f"{where} has frame {entry.get('frame')!r}, not {frame}")
    for name in numbers:
        if not _is_number(entry.get(name)):
            raise _invalid(f"{where} has {name} = {entry.get(name)!r}, not a finite number")


def _entry(extrinsics: Mapping, key: str) -> Any:
    if key not in extrinsics:
        raise _invalid(f"{key} is missing")
    return extrinsics[key]


def _list(extrinsics: Mapping, key: str, length: int) -> Sequence:
    value = _entry(extrinsics, key)
    if not isinstance(value, list | tuple):
        raise _invalid(f"{key} is a {type(value).__name__}, not a list")
    if len(value) != length:
        raise _invalid(f"{key} has {len(value)} entries, not {length}")
    return value


def _is_list_of(length: int, value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == length


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """A finite number; also False for a whole number too large for a float."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) <= sys.float_info.max


def _invalid(what: str) -> MegasamError:
    return MegasamError(
        "extrinsics_invalid",
        f"The camera is not fit for use: {what}.",
        "Solve again; if it came from a file or another program, check how that was written.",
    )
