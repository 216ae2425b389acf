"""Camera poses in the text format of the TUM RGB-D benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from megasam_shared.rotations import quaternion_xyzw_from_rotation

from megasam_server.geometry.camera import CameraPath


def write_poses_tum(path: Path, cameras: CameraPath) -> None:
    """One line ``index tx ty tz qx qy qz qw`` per frame.

    Camera to world, OpenCV axes, world units; ``index`` is the position in the plate from 0 (not
    the frame number), where the benchmark's own files have seconds.
    """
    quaternions_xyzw = [quaternion_xyzw_from_rotation(pose) for pose in cameras.world_from_cam]
    rows = np.column_stack(
        [np.arange(len(cameras)), cameras.world_from_cam[:, :3, 3], quaternions_xyzw]
    )
    np.savetxt(path, rows, fmt=["%d"] + ["%.12g"] * 7)
