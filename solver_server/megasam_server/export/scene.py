"""A solved shot in the terms that the scene files share: Maya's axes, centimetres, a film back.

Y-up and centimetres suit all of them: Maya and FBX think so, Alembic does by custom, and Maya's USD
importer scales lenses unless a stage is in centimetres.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from megasam_shared.coordinates import (
    camera_angles_over_time,
    camera_from_opencv,
    point_from_opencv,
)
from megasam_shared.film_back import MM_PER_INCH, PlateCamera, film_back_from_plate

from megasam_server.export.frame_rate import exact_frame_rate
from megasam_server.pipeline.solved_shot import SolvedShot

# One world unit becomes one metre. For a metric solve that is true; a solve without scale is
# treated alike, so that its files agree with each other and with a bake at scene scale 1.
CM_PER_UNIT = 100.0
# Width of a full-frame sensor, taken when the artist does not give the film back. The picture does
# not depend on it: only the focal length in mm does.
DEFAULT_FILM_BACK_MM = 36.0
MAX_LOCATORS = 300


@dataclass(frozen=True)
class Scene:
    """Camera, points and plate of one shot. Y-up, camera looks along -Z, lengths in cm.

    Attributes:
        name: made of letters, digits and _; prefix of every node.
        notes: what was solved and how well, for people.
        width, height: of the plate, pixels.
        fps: exact frame rate.
        frame_numbers: [N] of the plate; keys lie on these.
        world_from_cam: float64 [N,4,4], acting on columns.
        rotate_deg: rotateX, rotateY, rotateZ in degrees for rotate order zxy, unwrapped, float64
            [N,3].
        focal_mm: float64 [N].
        film_width_mm, film_height_mm: of the film back; its aspect is the plate's.
        film_offset_mm: horizontal and vertical film offset, float64 [N,2]; positive moves the
            frustum right and up.
        near_clip, far_clip: clipping planes.
        plate_distance: where an image plane lies behind everything that was solved.
        points, rgb: float64 [P,3], uint8 [P,3].
        locators: the best points, to snap to, float64 [L,3], L <= 300.
        locator_size: of a locator or drawn point.
        plate_kind: ``movie`` or ``sequence``.
        plate_file: the movie or the first frame, with forward slashes.
    """

    name: str
    notes: str
    width: int
    height: int
    fps: Fraction
    frame_numbers: list[int]
    world_from_cam: np.ndarray
    rotate_deg: np.ndarray
    focal_mm: np.ndarray
    film_width_mm: float
    film_height_mm: float
    film_offset_mm: np.ndarray
    near_clip: float
    far_clip: float
    plate_distance: float
    points: np.ndarray
    rgb: np.ndarray
    locators: np.ndarray
    locator_size: float
    plate_kind: str
    plate_file: str

    @property
    def positions(self) -> np.ndarray:
        """Camera positions, float64 [N,3]."""
        return self.world_from_cam[:, :3, 3]


def scene_from_shot(
    shot: SolvedShot, *, film_back_mm: float = 0.0, cm_per_unit: float = CM_PER_UNIT
) -> Scene:
    """The scene of a solved shot.

    Args:
        shot: the solve. Pixels must have the same aspect in every frame (fy / fx of the first).
        film_back_mm: width of the film back; 0 takes :data:`DEFAULT_FILM_BACK_MM`.
        cm_per_unit: centimetres for one unit of the solved world.
    """
    film_backs = [
        film_back_from_plate(camera, film_back_mm or DEFAULT_FILM_BACK_MM)
        for camera in _plate_cameras(shot)
    ]
    poses = [camera_from_opencv(pose, "maya") for pose in shot.cameras.world_from_cam.tolist()]
    angles = camera_angles_over_time(poses, "maya")
    world_from_cam = np.array(poses)
    world_from_cam[:, :3, 3] *= cm_per_unit
    maya_from_opencv = np.array([point_from_opencv(axis, "maya") for axis in np.eye(3).tolist()]).T
    to_cm = cm_per_unit * maya_from_opencv.T
    near, far = map(float, shot.depth_near_far)
    return Scene(
        name=node_name(shot.plate.name),
        notes=_notes(shot),
        width=shot.plate.width,
        height=shot.plate.height,
        fps=exact_frame_rate(shot.plate.fps),
        frame_numbers=list(shot.plate.frame_numbers),
        world_from_cam=world_from_cam,
        rotate_deg=np.degrees([(a.tilt, a.pan, a.roll) for a in angles]),
        focal_mm=np.array([film.focal_mm for film in film_backs]),
        film_width_mm=film_backs[0].horizontal_aperture_in * MM_PER_INCH,
        film_height_mm=film_backs[0].vertical_aperture_in * MM_PER_INCH,
        film_offset_mm=MM_PER_INCH
        * np.array([(f.horizontal_offset_in, f.vertical_offset_in) for f in film_backs]),
        near_clip=0.1 * near * cm_per_unit,
        far_clip=10 * far * cm_per_unit,
        plate_distance=2 * far * cm_per_unit,
        points=shot.points.xyz @ to_cm,
        rgb=shot.points.rgb,
        locators=shot.points.xyz[shot.points.best_first()[:MAX_LOCATORS]] @ to_cm,
        locator_size=0.01 * float(np.sqrt(near * far)) * cm_per_unit,
        plate_kind=shot.plate.kind,
        plate_file=shot.plate.files[0].replace("\\", "/"),
    )


def node_name(text: str) -> str:
    """``text`` as a node name that every program accepts: letters, digits and _, no digit first."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", text)
    return plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}"


def varies(values: np.ndarray) -> bool:
    """A channel [N] that needs keys; False when rounding is all that changes in it."""
    return bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))


def _plate_cameras(shot: SolvedShot) -> list[PlateCamera]:
    intrinsics = shot.cameras.intrinsics
    rows = np.column_stack([intrinsics.fx, intrinsics.fy, intrinsics.corner_principal_points()])
    return [PlateCamera(intrinsics.width, intrinsics.height, *row) for row in rows.tolist()]


def _notes(shot: SolvedShot) -> str:
    scale = "metric scale" if shot.quality.scale_is_metric else "scale not known"
    parts = [
        f"MegaSAM solve of {shot.plate.name}: {shot.solving_method}",
        f"verdict {shot.quality.verdict}, RMS {shot.quality.rms_px:.2f} px, {scale}",
        *shot.quality.reasons,
    ]
    return ". ".join(part.rstrip(".") for part in parts) + "."
