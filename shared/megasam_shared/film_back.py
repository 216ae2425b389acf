"""Film backs in millimetres and inches, and the same cameras in plate pixels.

Pixels have their *corners* at integers here (picture centre = W/2, H/2), as in every file that
leaves the solver. Maya gives focal length in millimetres, film apertures and offsets in inches; a
positive horizontal offset shifts the frustum to the right, so the principal point moves left, a
positive vertical offset shifts it up, so the principal point moves down. ``lensSqueezeRatio`` and
the camera's scales are taken as 1, ``filmFitOffset``, film translation and film roll as 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megasam_shared.errors import MegasamError

MM_PER_INCH = 25.4
HORIZONTAL_FIT = 1  # of Maya's filmFit


@dataclass(frozen=True)
class PlateCamera:
    """Pinhole intrinsics of one frame, in plate pixels, corners at integers.

    Attributes:
        width, height: plate size that the numbers belong to, pixels.
        fx, fy: focal length, pixels.
        cx, cy: principal point from the top left corner, pixels.

    Raises:
        MegasamError: ``film_back_invalid`` for a number that is not finite, or not positive where
            it must be.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        _require_positive(width=self.width, height=self.height, fx=self.fx, fy=self.fy)
        _require_finite(cx=self.cx, cy=self.cy)

    @property
    def pixel_aspect(self) -> float:
        """Width of a pixel divided by its height: fy / fx."""
        return self.fy / self.fx

    def at_resolution(self, width: int, height: int) -> PlateCamera:
        """The same camera for the picture resized, in x and y each by its own factor."""
        sx, sy = width / self.width, height / self.height
        return PlateCamera(width, height, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy)


@dataclass(frozen=True)
class FilmBack:
    """Lens and film back of a Maya camera.

    Attributes:
        focal_mm: ``focalLength``, millimetres.
        horizontal_aperture_in, vertical_aperture_in: size of the film back, inches.
        horizontal_offset_in, vertical_offset_in: film offset, inches.
        pixel_aspect: of the render settings; 1 for square pixels.

    Raises:
        MegasamError: ``film_back_invalid``, as for :class:`PlateCamera`.
    """

    focal_mm: float
    horizontal_aperture_in: float
    vertical_aperture_in: float
    horizontal_offset_in: float = 0.0
    vertical_offset_in: float = 0.0
    pixel_aspect: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(
            focal_mm=self.focal_mm,
            horizontal_aperture_in=self.horizontal_aperture_in,
            vertical_aperture_in=self.vertical_aperture_in,
            pixel_aspect=self.pixel_aspect,
        )
        _require_finite(
            horizontal_offset_in=self.horizontal_offset_in,
            vertical_offset_in=self.vertical_offset_in,
        )

    def maya_attributes(self) -> dict[str, float]:
        """Attributes of the camera shape by their Maya names, film fit horizontal."""
        return {
            "focalLength": self.focal_mm,
            "horizontalFilmAperture": self.horizontal_aperture_in,
            "verticalFilmAperture": self.vertical_aperture_in,
            "horizontalFilmOffset": self.horizontal_offset_in,
            "verticalFilmOffset": self.vertical_offset_in,
            "filmFit": HORIZONTAL_FIT,
        }


def film_back_from_plate(camera: PlateCamera, film_back_mm: float) -> FilmBack:
    """The Maya camera that sees what ``camera`` sees, on a film back ``film_back_mm`` wide.

    The film's aspect is the picture's, so that every film fit gives the same view.
    """
    _require_positive(film_back_mm=film_back_mm)
    width, height = camera.width, camera.height
    horizontal = film_back_mm / MM_PER_INCH
    vertical = horizontal * height / (width * camera.pixel_aspect)
    return FilmBack(
        focal_mm=camera.fx * film_back_mm / width,
        horizontal_aperture_in=horizontal,
        vertical_aperture_in=vertical,
        horizontal_offset_in=horizontal * (width / 2 - camera.cx) / width,
        vertical_offset_in=vertical * (camera.cy - height / 2) / height,
        pixel_aspect=camera.pixel_aspect,
    )


def focal_px_from_mm(focal_mm: float, film_back_mm: float, width: int) -> float:
    """Focal length in pixels of a picture ``width`` pixels wide."""
    _require_positive(focal_mm=focal_mm, film_back_mm=film_back_mm, width=width)
    return focal_mm * width / film_back_mm


def film_back_mm_from_lens(focal_mm: float, fx: float, width: int) -> float:
    """Film back width (mm) for which the solved ``fx`` is a lens of ``focal_mm``: "lock focal"."""
    _require_positive(focal_mm=focal_mm, fx=fx, width=width)
    return focal_mm * width / fx


def _require_positive(**values: float) -> None:
    _require_finite(**values)
    for name, value in values.items():
        if value <= 0:
            raise MegasamError("film_back_invalid", f"{name} = {value:g} must be more than 0.")


def _require_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise MegasamError("film_back_invalid", f"{name} = {value} is not a finite number.")
