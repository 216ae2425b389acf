"""A solved shot as Apply needs it, read from a result folder."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megasam_shared.coordinates import Vector3, point_from_opencv, point_to_opencv
from megasam_shared.errors import MegasamError
from megasam_shared.extrinsics import validate_extrinsics
from megasam_shared.quality import is_usable
from megasam_shared.rotations import PanTiltRoll
from megasam_shared.sequence import find_sequence, is_movie

from megasam_maya.result_files import EXTRINSICS, QUALITY, read_map

_POINTS = "points.ply"
_DEPTH_PREVIEW = "depth_preview"
_USD = "camera.usda"
_FRAME_FILE = re.compile(r"(?P<name>.*)\.(?P<frame>-?\d+)\.png")

_PLY_HEADER_LIMIT = 4096
_PLY_VERTEX = struct.Struct("<3f3B")
_PLY_PROPERTIES = [
    *(f"property float {axis}" for axis in "xyz"),
    *(f"property uchar {colour}" for colour in ("red", "green", "blue")),
]


@dataclass(frozen=True)
class SolvedShot:
    """A solve in Maya's axes: Y-up, camera looks along -Z; lengths in solver units.

    Attributes:
        name: of the plate.
        folder: where the results lie.
        width, height: plate size, pixels.
        fps: of the plate.
        frame_numbers: [N] the plate's own, increasing.
        positions: [N] of the camera.
        angles: [N] pan, tilt, roll, radians, unwrapped.
        focal_px: [N] plate pixels, square.
        principal_point: plate pixels, corners at integers.
        scale_is_metric: the unit is the metre.
        usable: False when nobody may apply it without being told to.
        source, status: who solved it, and what that says.
        verdict, reasons, rms_px: of the quality.
        depth_near_far: z-depths of what was solved.
        film_back_mm: that the artist gave for the solve; 0 for none.
        depth_preview: file of the first solved frame, if there are previews.
        usd: scene that holds the points, if there is one.
        plate: the plate's frame at the first solved frame, or the movie; None when not known here.
        job: the server's id of the solve; empty when not known.
    """

    name: str
    folder: Path
    width: int
    height: int
    fps: float
    frame_numbers: list[int]
    positions: list[Vector3]
    angles: list[PanTiltRoll]
    focal_px: list[float]
    principal_point: tuple[float, float]
    scale_is_metric: bool
    usable: bool
    source: str
    status: str
    verdict: str
    reasons: list[str]
    rms_px: float | None
    depth_near_far: tuple[float, float]
    film_back_mm: float = 0.0
    depth_preview: Path | None = None
    usd: Path | None = None
    plate: Path | None = None
    job: str = ""

    def points(self, most: int) -> list[Vector3]:
        """At most ``most`` solved points, the best first; axes and units of the shot.

        Raises:
            MegasamError: ``points_unreadable``.
        """
        return _read_points(self.folder / _POINTS, most)


def read_shot(folder: Path, plate: Path | None = None, job: str = "") -> SolvedShot:
    """The shot whose results lie in ``folder``.

    Args:
        plate: the plate as it is found on this machine: movie, folder, frame or pattern. Frames of
            a sequence must have the numbers that were solved.
        job: the server's id of the solve, if known.

    Raises:
        MegasamError: ``results_unreadable`` when the folder does not hold a solve,
            ``extrinsics_invalid``, or what :func:`find_sequence` says about the plate.
    """
    extrinsics = read_map(folder / EXTRINSICS)
    quality = read_map(folder / QUALITY)
    validate_extrinsics(extrinsics)
    frames = list(extrinsics["frame_numbers"])
    system = extrinsics["coordinate_system"]
    rotations = extrinsics["rotations"]
    previews = _depth_previews(folder / _DEPTH_PREVIEW)
    settings = quality.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    usd = folder / _USD
    return SolvedShot(
        name=next((name for name, _ in previews), None) or folder.name,
        folder=folder,
        width=extrinsics["image_width"],
        height=extrinsics["image_height"],
        fps=float(extrinsics["fps"]),
        frame_numbers=frames,
        positions=[
            point_from_opencv(point_to_opencv((r["tx"], r["ty"], r["tz"]), system), "maya")
            for r in rotations
        ],
        angles=[PanTiltRoll(r["pan"], r["tilt"], r["roll"]) for r in rotations],
        focal_px=[float(focal) for focal in extrinsics["focal_length_px_per_frame"]],
        principal_point=tuple(map(float, extrinsics["principal_point"])),
        scale_is_metric=extrinsics["scale_is_metric"],
        usable=is_usable(quality, extrinsics),
        source=extrinsics["source"],
        status=extrinsics["status"],
        verdict=str(quality.get("verdict", "failed")),
        reasons=[str(reason) for reason in quality.get("reasons", [])],
        rms_px=quality.get("rms_px"),
        depth_near_far=_near_far(quality),
        film_back_mm=float(settings.get("film_back_mm") or 0.0),
        depth_preview=next((path for (_, n), path in previews.items() if n == frames[0]), None),
        usd=usd if usd.is_file() else None,
        plate=_first_plate_file(plate, frames[0]) if plate is not None else None,
        job=job,
    )


def _near_far(quality: Mapping[str, Any]) -> tuple[float, float]:
    """Depths of what was solved; wide ones where the solve does not say."""
    near_far = quality.get("depth_near_far")
    if isinstance(near_far, list) and len(near_far) == 2:
        near, far = near_far
        if isinstance(near, int | float) and isinstance(far, int | float) and 0 < near <= far:
            return float(near), float(far)
    return 0.1, 100.0


def _depth_previews(folder: Path) -> dict[tuple[str, int], Path]:
    """(plate name, frame number) -> picture."""
    if not folder.is_dir():
        return {}
    found = ((_FRAME_FILE.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return {(m["name"], int(m["frame"])): path for m, path in found if m}


def _first_plate_file(plate: Path, first_frame: int) -> Path:
    if is_movie(plate):
        if not plate.is_file():
            raise MegasamError(
                "plate_not_found",
                f"There is no file {plate}.",
                "Choose the plate again, or apply without image plane.",
            )
        return plate
    return find_sequence(plate).between(first_frame, first_frame).files[0]


def _read_points(path: Path, most: int) -> list[Vector3]:
    """The first points of a PLY file as the solver writes it (best points first)."""
    try:
        with path.open("rb") as file:
            header, end, _ = file.read(_PLY_HEADER_LIMIT).partition(b"end_header\n")
            lines = header.decode("ascii").splitlines()
            counts = [line.split()[2] for line in lines if line.startswith("element vertex ")]
            properties = [line for line in lines if line.startswith("property ")]
            if not (end and len(counts) == 1 and properties == _PLY_PROPERTIES):
                raise ValueError("it has another layout than the solver's")
            count = min(int(counts[0]), most)
            file.seek(len(header) + len(end))
            vertices = file.read(count * _PLY_VERTEX.size)
        return [
            point_from_opencv(vertex[:3], "maya") for vertex in _PLY_VERTEX.iter_unpack(vertices)
        ]
    except (OSError, ValueError, struct.error) as error:
        raise MegasamError(
            "points_unreadable",
            f"The points in {path} cannot be read: {error}.",
            "Apply without points, or fetch the job again.",
        ) from None
