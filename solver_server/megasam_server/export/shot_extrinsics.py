"""The CAMERA_EXTRINSICS map of a solved shot."""

from __future__ import annotations

from typing import Any

import numpy as np
from megasam_shared.extrinsics import build_extrinsics

from megasam_server.pipeline.solved_shot import SolvedShot


def shot_extrinsics(shot: SolvedShot, coordinate_system: str) -> dict[str, Any]:
    """The map that clients bake from; lengths in units of the solve.

    The contract has one principal point and one focal length per frame: the median and ``fx``.

    Raises:
        MegasamError: ``extrinsics_invalid`` when the solve holds numbers that are no camera.
    """
    intrinsics = shot.cameras.intrinsics
    centre = np.median(intrinsics.corner_principal_points(), axis=0)
    return build_extrinsics(
        world_from_cam=shot.cameras.world_from_cam.tolist(),
        focal_px=intrinsics.fx.tolist(),
        width=shot.plate.width,
        height=shot.plate.height,
        frame_numbers=shot.plate.frame_numbers,
        fps=shot.plate.fps,
        coordinate_system=coordinate_system,
        source=shot.source,
        solving_method=shot.solving_method,
        status=shot.status,
        scale_is_metric=shot.quality.scale_is_metric,
        principal_point=tuple(centre.tolist()),
        usable=shot.quality.usable,
    )
