"""A tracking solution in one file: numpy's npz with plain arrays only, nothing that runs code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from megasam_shared.quality import FocalProfile, Notice

from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.tracking.solution import TrackingSolution

_POINTS = ("xyz", "rgb", "error_px", "seen_point", "seen_frame", "seen_xy")
_INTRINSICS = ("fx", "fy", "cx", "cy")
_PER_FRAME = ("per_frame_rms_px", "per_frame_tracks", "per_frame_explained", "interpolated")
_PLAIN = ["model", "focal_given", "rms_px", "explained_share", "coverage", "median_track_length"]


def write_solution(path: Path, solution: TrackingSolution) -> None:
    """Write ``solution`` to ``path``, which ends in ``.npz``; floats come back to the last bit."""
    intrinsics = solution.cameras.intrinsics
    plain = {name: getattr(solution, name) for name in _PLAIN}
    plain |= {
        "size": [intrinsics.width, intrinsics.height],
        "focal_profile": solution.focal_profile and asdict(solution.focal_profile),
        "warnings": [asdict(warning) for warning in solution.warnings],
    }
    np.savez(
        path,
        plain=np.array(json.dumps(plain, default=_plain_number)),
        world_from_cam=solution.cameras.world_from_cam,
        **{name: getattr(intrinsics, name) for name in _INTRINSICS},
        **{name: getattr(solution.points, name) for name in _POINTS},
        **{name: getattr(solution, name) for name in _PER_FRAME},
    )


def read_solution(path: Path) -> TrackingSolution:
    """What :func:`write_solution` wrote.

    Raises:
        OSError, ValueError, KeyError: no such file, or not one of ours.
    """
    with np.load(path, allow_pickle=False) as file:
        plain = json.loads(str(file["plain"]))
        profile = plain["focal_profile"]
        if profile is not None:
            profile = FocalProfile(**profile | {"interval_px": tuple(profile["interval_px"])})
        intrinsics = Intrinsics(*plain["size"], *(file[name] for name in _INTRINSICS))
        return TrackingSolution(
            cameras=CameraPath(file["world_from_cam"], intrinsics),
            points=PointCloud(*(file[name] for name in _POINTS)),
            focal_profile=profile,
            warnings=[Notice(**warning) for warning in plain["warnings"]],
            **{name: plain[name] for name in _PLAIN},
            **{name: file[name] for name in _PER_FRAME},
        )


def _plain_number(value: object) -> object:
    """numpy's scalars, which json does not know, as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value")
