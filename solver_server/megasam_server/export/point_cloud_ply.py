"""The solved points as a PLY file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megasam_server.geometry.point_cloud import PointCloud

_VERTEX = np.dtype(
    [(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("red", "green", "blue")]
)


def write_point_cloud(path: Path, points: PointCloud) -> None:
    """Binary little-endian PLY: float32 position and uint8 colour of each point.

    Same axes and units as ``poses_tum.txt``: OpenCV axes (x right, y down, z forward), world units.
    The best points come first, so that a client may read as many as it can show.
    """
    order = points.best_first()
    vertices = np.empty(len(order), _VERTEX)
    for column, axis in enumerate("xyz"):
        vertices[axis] = points.xyz[order, column]
    for column, colour in enumerate(("red", "green", "blue")):
        vertices[colour] = points.rgb[order, column]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment OpenCV axes: x right, y down, z forward; the world is the first camera",
        f"element vertex {len(vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {colour}" for colour in ("red", "green", "blue")),
        "end_header",
    ]
    with path.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        file.write(vertices.tobytes())
