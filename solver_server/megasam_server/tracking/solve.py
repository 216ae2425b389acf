"""Stage 3 of the classical engine: from frames to a camera for every frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from megasam_shared.errors import MegasamError
from megasam_shared.quality import FocalProfile, Notice
from megasam_shared.settings import SolveSettings

from megasam_server.media.frame_store import FrameStore
from megasam_server.media.plate import PlateInfo
from megasam_server.media.preview import Previews
from megasam_server.pipeline.progress import Progress
from megasam_server.tracking.bundle import BundleOptions
from megasam_server.tracking.clip_tracks import find_tracks
from megasam_server.tracking.every_frame import (
    pose_every_frame,
    weak_frames_notice,
    weakly_seen,
)
from megasam_server.tracking.focal_profile import profile_focal, thinned
from megasam_server.tracking.lens_distortion import distortion_notice, straightened
from megasam_server.tracking.perspective import START_FOCALS, reconstruct
from megasam_server.tracking.reconstruction import Reconstruction
from megasam_server.tracking.solution import TrackingSolution
from megasam_server.tracking.to_plate import to_plate
from megasam_server.tracking.tracks import Tracks, longest_spread
from megasam_server.tracking.tripod import set_in_motion, turn

_MIN_TRACKS = 30
_THIN = 100
_FULL = 250
# Shares of the stage's time, for the progress bar.
_SHARES = {"corners": 0.25, "features": 0.2, "models": 0.3, "every_frame": 0.15, "focal": 0.1}


def solve_cameras(
    frames: FrameStore,
    user_masks: FrameStore | None,
    plate: PlateInfo,
    settings: SolveSettings,
    progress: Progress,
) -> TrackingSolution:
    """Solve the camera of the plate.

    Args:
        frames: N frames. user_masks: 1 = leave out; None without masks.
        plate: what the frames are. settings: focal length, if known.
        progress: gets stage ``tracking``.

    Returns:
        cameras for all N frames, in plate pixels.

    Raises:
        MegasamError: ``too_little_texture`` when there is nothing to follow.
    """
    step = _Steps(progress)
    previews = Previews(progress, "tracking", plate.frame_numbers)

    def followed(name: str, done: int, total: int, note: str) -> None:
        if name == "corners":
            previews.show(done - 1, lambda: frames.frame(done - 1))
        step.reporter(name, note)(done, total)

    tracks, keyframes = find_tracks(frames, user_masks, followed)
    size = (frames.width, frames.height)
    if np.median(np.bincount(tracks.frame, minlength=frames.num_frames)) < _MIN_TRACKS:
        raise MegasamError(
            "too_little_texture",
            "There is too little to follow in the picture: fewer than "
            f"{_MIN_TRACKS} points last from frame to frame.",
            "Check that the plate is in focus and not too dark, that masks leave some background, and the frame range.",
        )
    given = settings.focal_px_at(plate.width) * frames.width / plate.width
    held = given > 0 and not settings.optimize_focal
    focals = [given] if given > 0 else [ratio * max(size) for ratio in START_FOCALS]
    options = BundleOptions(focal="fixed" if held else "shared")

    on_keyframes = _of_keyframes(tracks, keyframes)
    thin = longest_spread(on_keyframes, _THIN, *size)
    chosen = choose_model(thin, len(keyframes), size, focals, options, step)
    all_tracks = longest_spread(tracks, _FULL, *size)
    profile: FocalProfile | None = None
    for attempt in range(2):
        step.reporter("every_frame", "adjusting all frames")(attempt, 2)
        full = pose_every_frame(chosen.model, keyframes, all_tracks, frames.num_frames)
        if held:
            break
        profile, better = profile_focal(
            thinned(full, keyframes),
            plate.width / frames.width,
            step.reporter("focal", "testing focal lengths"),
        )
        if better is None:
            break
        # The adjustment had stopped in a side valley: once more from the focal length that fits better.
        chosen.model.scene.focal[:] *= np.median(better.scene.focal) / np.median(full.scene.focal)
        chosen.model.settle()
    warnings = [*chosen.warnings]
    weak = weakly_seen(full)
    if weak.any():
        warnings.append(weak_frames_notice(weak, plate.frame_numbers))
    return to_plate(full, frames, plate, held, profile, weak, warnings)


@dataclass(frozen=True)
class ChosenModel:
    """The model that explains the tracks, and what the artist should know about the choice."""

    model: Reconstruction
    warnings: list[Notice]


def choose_model(
    tracks: Tracks,
    num_cameras: int,
    size: tuple[int, int],
    focals_px: list[float],
    options: BundleOptions,
    step: _Steps,
) -> ChosenModel:
    """Tripod or moving camera, constant lens or zoom: the simplest model that explains the tracks.

    A richer model always fits better; it is taken only when it fits clearly better (truncated cost over all tracks).
    """
    report = step.reporter("models", "solving")
    tripod = turn(tracks, num_cameras, size, focals_px, options)
    if options.focal == "shared":
        tripod = _preferred(tripod, _zooming(tripod), _ZOOM_GAIN)
    report(1, 4)
    if tripod.used.mean() > _MOSTLY:
        # Too little parallax for a start from two frames, and turning shows the focal length.
        moving = set_in_motion(tripod)
        chosen = straightened(moving if _shows_parallax(tripod, moving) else tripod)
        return ChosenModel(chosen, _about(chosen))
    moving = reconstruct(
        tracks, num_cameras, size, focals_px, options, lambda done, of: report(1 + 2 * done / of, 4)
    )
    if moving is None:
        return ChosenModel(tripod, _about(tripod))
    if options.focal == "shared" and moving.truncated_cost() > _GOOD_COST:
        zoom = reconstruct(
            tracks,
            num_cameras,
            size,
            [float(np.median(moving.scene.focal)), *focals_px[:2]],
            replace(options, focal="each"),
            lambda done, of: report(3 + done / of, 4),
        )
        if zoom is not None and zoom.scene.focal.max() / zoom.scene.focal.min() > _LEAST_ZOOM:
            moving = _preferred(moving, zoom, _ZOOM_GAIN)
    chosen = straightened(_preferred(tripod, moving, _MOVING_GAIN))
    return ChosenModel(chosen, _about(chosen))


_GOOD_COST = 0.5
_MOSTLY = 0.6
_LEAST_ZOOM = 1.03
# How much the richer model must lower the cost to be believed: freedom alone lowers it a little.
_ZOOM_GAIN = 0.85
_MOVING_GAIN = 0.5
_PARALLAX_GAIN = 0.3


def _preferred(simple: Reconstruction, rich: Reconstruction, gain: float) -> Reconstruction:
    return rich if rich.truncated_cost() < gain * simple.truncated_cost() else simple


def _shows_parallax(tripod: Reconstruction, moving: Reconstruction) -> bool:
    """Moving the camera removes most of the error of what both models explain."""
    both = moving.seen.select(moving.used & tripod.used)
    before = (tripod.scene.residuals(both) ** 2).sum()
    return bool((moving.scene.residuals(both) ** 2).sum() < _PARALLAX_GAIN * before)


def _zooming(model: Reconstruction) -> Reconstruction:
    """The same shot with a focal length per frame."""
    other = Reconstruction.copy_of(model)
    other.options = replace(model.options, focal="each")
    other.settle()
    return other


def _about(model: Reconstruction) -> list[Notice]:
    notices = []
    if not model.options.translate:
        notices.append(
            Notice(
                "tripod",
                "Almost no parallax: solved as a tripod shot (rotation only).",
                "Depth and camera position cannot be known from this shot; place the camera by hand.",
            )
        )
    if model.options.focal == "each":
        low, high = model.scene.focal.min(), model.scene.focal.max()
        notices.append(
            Notice(
                "zoom",
                f"The lens zooms by a factor of {high / low:.2f}; the focal length is animated.",
            )
        )
    if model.options.distortion:
        notices.append(distortion_notice(model))
    return notices


def _of_keyframes(tracks: Tracks, keyframes: list[int]) -> Tracks:
    """Tracks in the keyframes only, frames numbered 0..K-1."""
    kept = tracks.select(np.isin(tracks.frame, keyframes)).with_min_length(min(3, len(keyframes)))
    return replace(kept, frame=np.searchsorted(keyframes, kept.frame))


class _Steps:
    """Progress of the stage from that of its steps."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def reporter(self, name: str, note: str):
        """A callable (done, total) for one step."""
        names = list(_SHARES)
        before = sum(_SHARES[other] for other in names[: names.index(name)])

        def report(done: float, total: float) -> None:
            self._progress.update("tracking", before + _SHARES[name] * done / total, 1.0, note)

        return report
