"""The verdict on a solve: numbers, and reasons in words an artist can act on.

A wrong camera that looks confident is the worst result there is, so ``good`` asks for everything at once: small
errors, tracks all over the picture, most of the picture explained, parallax that shows the depth and a focal length
that the tracks determine. Errors are judged in thousandths of the plate's width, because a pixel of 4K is not a pixel
of VGA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from megasam_shared.quality import Quality, Verdict, WindowJoin

from megasam_server.media.plate import PlateInfo
from megasam_server.tracking.solution import TrackingSolution

_GOOD_RMS = 1.0e-3
_FAILED_RMS = 5.0e-3
_GOOD_COVERAGE, _FAILED_COVERAGE = 0.3, 0.05
_GOOD_EXPLAINED, _FAILED_EXPLAINED = 0.6, 0.2
_GOOD_FRAME_EXPLAINED = 0.5
_GOOD_WEAK, _FAILED_WEAK = 0.02, 0.5
_LOW_PARALLAX = 0.03
_MANY_MOVING = 0.5
# Where two windows of a long clip meet: a jump of some three thousandths of the picture's width.
_GOOD_JOIN_DEG, _GOOD_JOIN_PERCENT = 0.2, 0.5
_GOOD_JOIN_SCALE, _GOOD_JOIN_INLIERS = 0.05, 0.7


def judge(
    solution: TrackingSolution,
    plate: PlateInfo,
    moving_share: float,
    scale_is_metric: bool = False,
    doubts: Sequence[str] = (),
    joins: Sequence[WindowJoin] = (),
) -> Quality:
    """Quality of a solved plate.

    Args:
        solution: of the tracking stage, plate pixels. plate: its size sets the scale of errors.
        moving_share: mean share of pixels in the motion masks, 0-1.
        scale_is_metric: lengths are metres.
        doubts: what else keeps the engine from calling its solve good, for the artist.
        joins: of the windows that the clip was solved in; frames from 0 on.
    """
    numbers = plate.frame_numbers
    joins = [
        replace(join, first_frame=numbers[join.first_frame], last_frame=numbers[join.last_frame])
        for join in joins
    ]
    doubts = [*doubts, *_misfits(joins, solution.model)]
    parallax = baseline_to_depth(solution)
    verdict, reasons = _verdict(solution, plate, moving_share, parallax)
    if verdict != "failed" and doubts:
        verdict, reasons = "check", [*reasons, *doubts]
    return Quality(
        verdict=verdict,
        reasons=reasons,
        rms_px=solution.rms_px,
        per_frame_rms_px=[float(v) if np.isfinite(v) else None for v in solution.per_frame_rms_px],
        coverage=solution.coverage,
        moving_share=moving_share,
        baseline_to_depth=parallax,
        median_track_length=solution.median_track_length,
        num_points=len(solution.points.xyz),
        focal_profile=solution.focal_profile,
        scale_is_metric=scale_is_metric,
        warnings=list(solution.warnings),
        window_joins=joins,
    )


def baseline_to_depth(solution: TrackingSolution) -> float:
    """Extent of the camera path (diagonal of its box) over the median depth of the points; 0 on a tripod."""
    points = solution.points
    if solution.model == "tripod" or not len(points.seen_point):
        return 0.0
    centres = solution.cameras.world_from_cam[:, :3, 3]
    _, depth = solution.cameras.project(points.xyz[points.seen_point], points.seen_frame)
    return float(np.linalg.norm(np.ptp(centres, axis=0)) / np.median(depth))


def _misfits(joins: Sequence[WindowJoin], model: str) -> list[str]:
    """What must be said of the places where two windows meet."""
    said = []
    for join in joins:
        ratio = 1.0 if join.scale_ratio is None else join.scale_ratio
        faults = [
            (join.rotation_deg > _GOOD_JOIN_DEG, f"{join.rotation_deg:.2g} degrees apart"),
            (
                # A tripod stands where it stands, whatever the tracker thinks of its place.
                model != "tripod" and join.translation_percent > _GOOD_JOIN_PERCENT,
                f"positions apart by {join.translation_percent:.2g}% of the depth",
            ),
            (
                abs(ratio - 1) > _GOOD_JOIN_SCALE,
                f"path and depth disagree on the scale by {abs(ratio - 1):.0%}",
            ),
            (join.inliers < _GOOD_JOIN_INLIERS, f"{join.inliers:.0%} of its frames agree"),
        ]
        texts = [text for happened, text in faults if happened]
        if texts:
            said.append(
                f"The join of two parts of the clip at frames {join.first_frame}-{join.last_frame} does not fit: "
                f"{', '.join(texts)}. The path bends there: look at it, or solve the parts one by one."
            )
    return said


def _finite(solution: TrackingSolution) -> bool:
    numbers = [solution.rms_px, solution.coverage, solution.explained_share]
    lens = solution.cameras.intrinsics
    return all(
        np.isfinite(values).all()
        for values in (numbers, solution.cameras.world_from_cam, lens.fx, lens.fy, lens.cx, lens.cy)
    )


def _verdict(
    solution: TrackingSolution, plate: PlateInfo, moving_share: float, parallax: float
) -> tuple[Verdict, list[str]]:
    rms = solution.rms_px / plate.width
    weak = float(np.mean(solution.interpolated))
    failed = [
        (
            not _finite(solution) or rms > _FAILED_RMS,
            "The static points do not fit one camera path.",
        ),
        (solution.coverage < _FAILED_COVERAGE, "Almost nothing in the picture could be tracked."),
        (
            solution.explained_share < _FAILED_EXPLAINED,
            "Most of what was tracked moves on its own, or the path is wrong: mask the movers.",
        ),
        (weak > _FAILED_WEAK, "Most frames see too few static points to be solved."),
    ]
    torn = solution.per_frame_explained < _GOOD_FRAME_EXPLAINED
    profile = solution.focal_profile
    check = [
        (
            rms > _GOOD_RMS,
            f"Reprojection error is high ({solution.rms_px:.2f} px): lens distortion or blur?",
        ),
        (
            solution.coverage < _GOOD_COVERAGE,
            f"Static points cover only {solution.coverage:.0%} of the picture.",
        ),
        (
            solution.explained_share < _GOOD_EXPLAINED,
            f"Only {solution.explained_share:.0%} of the tracks fit the camera: "
            "mask what moves, or undistort the plate.",
        ),
        (
            bool(torn.any()),
            f"In {torn.sum()} frames (first: {plate.frame_numbers[int(torn.argmax())]}) most of what was "
            "tracked does not fit: fast motion, blur or a big mover. The path before and after may not line up.",
        ),
        (weak > _GOOD_WEAK, f"{weak:.0%} of the frames were filled in from their neighbours."),
        (
            profile is not None and not profile.observable,
            "The focal length is uncertain"
            + (
                f" ({profile.interval_px[0]:.0f}-{profile.interval_px[1]:.0f} px)"
                if profile
                else ""
            )
            + ": enter it if you know it.",
        ),
        (
            solution.model == "perspective" and parallax < _LOW_PARALLAX,
            "The camera hardly moves: depth and position are uncertain.",
        ),
        (moving_share > _MANY_MOVING, f"{moving_share:.0%} of the picture moves on its own."),
    ]
    reasons = [text for happened, text in failed if happened]
    if reasons:
        return "failed", reasons
    reasons = [text for happened, text in check if happened]
    return ("check", reasons) if reasons else ("good", [])
