"""What the processor does for the engine with networks: corners are followed, and the path is refined on them.

Nothing here needs torch: a process beside the networks is quickly there, and small.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from megasam_server.geometry.camera import CameraPath
from megasam_server.media.frame_store import FrameStore
from megasam_server.media.plate import PlateInfo
from megasam_server.tracking.clip_tracks import find_tracks
from megasam_server.tracking.every_frame import weak_frames_notice
from megasam_server.tracking.lens_distortion import distortion_notice
from megasam_server.tracking.path_refinement import (
    Lens,
    RefinedPath,
    moving_sightings,
    refine_path,
)
from megasam_server.tracking.solution import TrackingSolution
from megasam_server.tracking.to_plate import to_plate
from megasam_server.tracking.tracks import Tracks


def followed(frames: FrameStore, user_masks: FrameStore | None) -> Tracks:
    """Everything in the clip that can be followed, movers among it; ``user_masks``: 1 = leave out."""
    tracks, _ = find_tracks(frames, user_masks, lambda *_: None)
    return tracks


def refined_on_tracks(
    path: CameraPath,
    tripod: bool,
    static_probability: np.ndarray,
    tracks: Tracks,
    frames: FrameStore,
    plate: PlateInfo,
    lens: Lens,
) -> TrackingSolution | None:
    """The path as the tracks refine it, and how well they fit; None where they cannot.

    Args:
        path: of the dense tracker, in plate pixels. tripod: the camera only turns.
        static_probability: of the cells of each frame, float32 [N,h,w].
        tracks: from :func:`followed`, in ``frames``.
        lens: what is known of the focal length.
    """
    size = frames.width, frames.height
    moving = moving_sightings(tracks, static_probability, *size)
    refined = refine_path(path.at_resolution(*size), tracks, moving, tripod, lens)
    return _solution(refined, frames, plate, lens == "known") if refined else None


def _solution(
    refined: RefinedPath, frames: FrameStore, plate: PlateInfo, focal_given: bool
) -> TrackingSolution:
    model = refined.model
    warnings = []
    if refined.weak.any():
        warnings.append(weak_frames_notice(refined.weak, plate.frame_numbers))
    if model.options.distortion:
        warnings.append(distortion_notice(model))
    profile = refined.focal_profile
    if profile:
        profile = profile.scaled(plate.width / frames.width)
    solution = to_plate(model, frames, plate, focal_given, profile, refined.weak, warnings)
    return replace(
        solution, explained_share=refined.explained_share, per_frame_explained=refined.explained
    )
