"""Camera intrinsics as a text table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megasam_server.geometry.camera import Intrinsics


def write_intrinsics(path: Path, intrinsics: Intrinsics) -> None:
    """One line ``index fx fy cx cy`` per frame, in plate pixels, under a ``#`` line that says so.

    Pixel corners at integers (picture centre = W/2, H/2); ``index`` is the position in the plate
    from 0.
    """
    rows = np.column_stack(
        [
            np.arange(len(intrinsics)),
            intrinsics.fx,
            intrinsics.fy,
            intrinsics.corner_principal_points(),
        ]
    )
    header = (
        f"index fx fy cx cy, pixels of a {intrinsics.width}x{intrinsics.height} picture; "
        "pixel corners at integers: the picture centre is (width/2, height/2)"
    )
    np.savetxt(path, rows, fmt=["%d"] + ["%.12g"] * 4, header=header)
