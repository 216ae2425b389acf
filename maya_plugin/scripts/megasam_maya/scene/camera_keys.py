"""The solved camera as values of Maya attributes. Nothing here touches a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import degrees
from statistics import median

from megasam_shared.coordinates import Vector3
from megasam_shared.film_back import (
    FilmBack,
    PlateCamera,
    film_back_from_plate,
    film_back_mm_from_lens,
)
from megasam_shared.rotations import (
    PanTiltRoll,
    rotation_from_pan_tilt_roll,
    unwrapped_pan_tilt_roll,
)

from megasam_maya.scene.options import ApplyOptions
from megasam_maya.scene.placement import Placement, product, scaled
from megasam_maya.shot import SolvedShot

# Width of a full-frame sensor, when nobody says. The picture does not depend on it: only the focal
# length in mm does.
DEFAULT_FILM_BACK_MM = 36.0
_ROUNDING = 1e-9


@dataclass(frozen=True)
class CameraKeys:
    """Keys of a camera.

    Attributes:
        frames: [N] Maya frames.
        translate: [N] cm.
        rotate: [N] rotateX, rotateY, rotateZ in degrees for rotate order zxy, without jumps.
        focal_mm: [N], or [1] for a constant.
        film: film back, offsets and median focal length.
        near_clip, far_clip: clipping planes, cm.
        plate_distance: where an image plane lies behind everything that was solved, cm.
    """

    frames: list[int]
    translate: list[Vector3]
    rotate: list[Vector3]
    focal_mm: list[float]
    film: FilmBack
    near_clip: float
    far_clip: float
    plate_distance: float


def keys_of(shot: SolvedShot, options: ApplyOptions, levelled: Placement) -> CameraKeys:
    """The keys of a shot.

    Args:
        levelled: what the artist's levelling did to the solve and was baked down, in the scale of
            ``options``.
    """
    film = _film_back(shot, options)
    focals = [focal * film.focal_mm / median(shot.focal_px) for focal in shot.focal_px]
    if options.focal == "constant" or max(focals) - min(focals) <= _ROUNDING * max(focals):
        focals = [film.focal_mm]
    near, far = (depth * options.cm_per_unit * levelled.scale for depth in shot.depth_near_far)
    return CameraKeys(
        frames=[number + options.frame_offset for number in shot.frame_numbers],
        translate=[levelled.point(scaled(p, options.cm_per_unit)) for p in shot.positions],
        rotate=placed_rotations(shot.angles, levelled),
        focal_mm=focals,
        film=film,
        near_clip=0.1 * near,
        far_clip=10 * far,
        plate_distance=2 * far,
    )


def placed_rotations(angles: Sequence[PanTiltRoll], placement: Placement) -> list[Vector3]:
    """[N] rotateX, rotateY, rotateZ in degrees of cameras (radians) that were placed anew."""
    if placement.rotation == Placement().rotation:
        path = list(angles)
    else:
        path = unwrapped_pan_tilt_roll(
            product(placement.rotation, rotation_from_pan_tilt_roll(frame)) for frame in angles
        )
    return [(degrees(a.tilt), degrees(a.pan), degrees(a.roll)) for a in path]


def _film_back(shot: SolvedShot, options: ApplyOptions) -> FilmBack:
    focal = median(shot.focal_px)
    width_mm = options.film_back_mm or shot.film_back_mm or DEFAULT_FILM_BACK_MM
    if options.lens_mm:
        width_mm = film_back_mm_from_lens(options.lens_mm, focal, shot.width)
    plate = PlateCamera(shot.width, shot.height, focal, focal, *shot.principal_point)
    return film_back_from_plate(plate, width_mm)
