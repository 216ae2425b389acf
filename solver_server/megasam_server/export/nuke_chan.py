"""The camera as a Nuke ``.chan`` file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megasam_server.export.scene import Scene


def write_nuke_chan(path: Path, scene: Scene) -> None:
    """One line ``frame tx ty tz rx ry rz vfov`` per frame.

    Y-up, centimetres, degrees; rotation order ZXY, Nuke's default, which the format cannot store;
    ``vfov`` is the vertical field of view of the film back. The format has no principal point: take
    USD, FBX or Alembic where it matters.
    """
    half_height = scene.film_height_mm / 2
    vertical_fov = 2 * np.degrees(np.arctan(half_height / scene.focal_mm))
    rows = np.column_stack([scene.frame_numbers, scene.positions, scene.rotate_deg, vertical_fov])
    np.savetxt(path, rows, fmt=["%d"] + ["%.12g"] * 7)
