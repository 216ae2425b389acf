"""The charts of the report."""

from __future__ import annotations

import numpy as np
from megasam_shared.quality import FocalProfile

from megasam_server.export.scene import varies
from megasam_server.export.svg_chart import COLOURS, Chart, padded_range
from megasam_server.pipeline.solved_shot import SolvedShot

_MAX_DOTS = 1500
_FAINT = "#c9cfd6"
_SHADE = "#e2ebf6"


def path_from_above(shot: SolvedShot, units: str) -> str:
    """Camera path and points seen from above, the first camera looking up the page."""
    path = shot.cameras.world_from_cam[:, [0, 2], 3]
    points = shot.points.xyz[:: max(1, len(shot.points.xyz) // _MAX_DOTS), ::2]
    # Far outliers would shrink the path to a dot.
    near_points = np.percentile(points, [5, 95], axis=0) if len(points) else path
    shown = np.concatenate([path, near_points])
    chart = Chart(
        padded_range(shown[:, 0]),
        padded_range(shown[:, 1]),
        f"right of the first camera, {units}",
        f"ahead of the first camera, {units}",
        height=380,
        equal=True,
    )
    chart.dots(*points.T, _FAINT, "points", radius=1.2)
    chart.line(*path.T, COLOURS[0], "camera")
    chart.dots(*path[:1].T, COLOURS[2], "first frame", radius=4)
    chart.dots(*path[-1:].T, COLOURS[1], "last frame", radius=4)
    return chart.svg()


def camera_angles(extrinsics: dict) -> str:
    """Pan, tilt and roll over the frames."""
    frames = extrinsics["frame_numbers"]
    angles = {n: [r[n] for r in extrinsics["per_frame"]] for n in ("pan", "tilt", "roll")}
    spread = padded_range(np.array(list(angles.values())))
    chart = Chart(padded_range(frames, 0.01), spread, "frame", "degrees")
    for (name, values), colour in zip(angles.items(), COLOURS, strict=False):
        chart.line(frames, values, colour, name)
    return chart.svg()


def error_per_frame(shot: SolvedShot) -> str:
    """Reprojection error of each frame; gaps where a frame sees no solved point."""
    frames = shot.plate.frame_numbers
    errors = np.array(shot.quality.per_frame_rms_px, dtype=float)  # None becomes NaN
    highest = padded_range(errors)[1]
    chart = Chart(padded_range(frames, 0.01), (0, highest), "frame", "RMS error, plate pixels")
    blind = np.flatnonzero(~np.isfinite(errors))
    for position, index in enumerate(blind):
        label = "no solved point seen" if position == 0 else ""
        chart.band(frames[index] - 0.5, frames[index] + 0.5, "#f6dcd2", label)
    chart.line(frames, errors, COLOURS[0], "error")
    known = np.isfinite(errors)
    if known.sum() <= 60:
        chart.dots(np.array(frames)[known], errors[known], COLOURS[0], radius=2)
    return chart.svg()


def focal_profile(profile: FocalProfile) -> str:
    """What each fixed focal length costs: a narrow valley means that the plate shows it."""
    focal, rms = np.array(profile.focal_px), np.array(profile.rms_px)
    chart = Chart(
        padded_range(focal, 0.03), padded_range(rms), "focal length, px", "RMS error, plate pixels"
    )
    chart.band(*profile.interval_px, _SHADE, "cannot be told apart")
    chart.line(focal, rms, COLOURS[0], "cost")
    chart.dots(focal, rms, COLOURS[0], radius=2.5)
    return chart.svg()


def focal_length(shot: SolvedShot) -> str:
    """Focal length over the frames of a zoom."""
    frames, focal = shot.plate.frame_numbers, shot.cameras.intrinsics.fx
    chart = Chart(padded_range(frames, 0.01), padded_range(focal), "frame", "focal length, px")
    chart.line(frames, focal, COLOURS[3])
    return chart.svg()


def zooms(shot: SolvedShot) -> bool:
    """The focal length changes over the shot."""
    return varies(shot.cameras.intrinsics.fx)
