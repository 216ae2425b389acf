"""A camera path that is nearly right, refined on tracks of points.

The dense tracker sees every cell of 8 x 8 pixels of a reduced picture, and so does not lose its way
in blur or among movers; but a corner is located to a part of a pixel, and followed for longer. So the
dense path is where the adjustment of the corners' tracks begins, and says which of them move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from megasam_shared.quality import FocalProfile

from megasam_server.geometry.camera import CameraPath
from megasam_server.tracking.bundle import BundleOptions
from megasam_server.tracking.every_frame import (
    MOST_JOINT_FRAMES,
    between_anchors,
    place_frames,
    refine,
    weakly_seen,
)
from megasam_server.tracking.focal_profile import profile_focal, thinned
from megasam_server.tracking.lens_distortion import straightened
from megasam_server.tracking.reconstruction import Reconstruction
from megasam_server.tracking.tracks import Tracks, longest_spread

_TRACKS_PER_FRAME = 150
# How far a dense path may be from the tracks, pixels, and how the bound tightens as it follows them.
_OUTLIER_PX = (12.0, 6.0, 3.0)
_MOST_WEAK = 0.5
_LEAST_FITTING = 0.5
# On real clips a tenth of it took half as long again and changed nothing.
_TOLERANCE = 1e-4
_PROFILE_FRAMES = 40
_PROFILES = 3

Lens = Literal["known", "shown", "guessed", "unknown"]
"""What is known of a focal length: it was given; the dense tracker saw it in the motion; the artist or a network
guessed it; or nothing."""


@dataclass(frozen=True)
class RefinedPath:
    """What the tracks made of the path.

    Attributes:
        model: all N frames, in pixels of the frames that were tracked.
        weak: bool [N]: too few points are seen; the frame follows the dense path between its
            neighbours.
        explained: share of everything tracked in a frame that stands still and fits, float64 [N].
        explained_share: the same of the clip.
        focal_profile: in the model's pixels, where the tracks had to find the focal length.
    """

    model: Reconstruction
    weak: np.ndarray
    explained: np.ndarray
    explained_share: float
    focal_profile: FocalProfile | None


def refine_path(
    path: CameraPath,
    tracks: Tracks,
    moving: np.ndarray,
    tripod: bool,
    lens: Lens,
) -> RefinedPath | None:
    """Adjust all frames together.

    Args:
        path: N cameras with square pixels, of the resolution of the tracks.
        tracks: of N frames, movers among them. moving: bool, for each observation.
        tripod: the camera only turns.
        lens: what to think of the focal length of ``path``.

    Returns:
        None where the tracks do not hold the path: too few stand still, or they do not fit it.
    """
    frames = len(path)
    size = (path.intrinsics.width, path.intrinsics.height)
    options = BundleOptions(focal="shared" if lens == "shown" else "fixed", translate=not tripod)
    still = tracks.select(~moving).with_min_length(min(3, frames))
    chosen = longest_spread(still, _TRACKS_PER_FRAME, *size)
    if not chosen.num_tracks:
        return None
    model = _placed(path, chosen, options)
    joint = np.unique(np.linspace(0, frames - 1, min(frames, MOST_JOINT_FRAMES)).astype(int))
    model.registered[joint] = True
    model.extend_points()
    for bound in _OUTLIER_PX:
        model.outlier_px = bound
        model.filter()
        model.extend_points()
        if not model.used.any():
            return None
        model.adjust(loss_px=bound / 3, iterations=6, tolerance=1e-2)
    model.filter()
    refine(model, _TOLERANCE)
    profile = None
    if lens in ("known", "shown"):
        model = straightened(model)
    elif lens == "unknown":
        profile = _take_likeliest_focal(model)
    _carry_over(model, path, ~weakly_seen(model) & model.registered)
    place_frames(model, np.setdiff1d(np.arange(frames), joint))
    weak = weakly_seen(model)
    if weak.mean() > _MOST_WEAK or model.used.mean() < _LEAST_FITTING:
        return None
    _carry_over(model, path, ~weak)
    return RefinedPath(model, weak, *_explained(model, tracks, moving), profile)


def _take_likeliest_focal(model: Reconstruction) -> FocalProfile:
    """Move the model to the focal length that fits best. An adjustment alone would not find it: the
    errors differ by so little that it stops where it starts."""
    solved = np.flatnonzero(model.registered)
    chosen = solved[:: 1 + len(solved) // _PROFILE_FRAMES]
    for _ in range(_PROFILES):
        profile, _ = profile_focal(thinned(model, chosen), 1.0, lambda *_: None)
        best = profile.focal_px[int(np.argmin(profile.rms_px))]
        ratio = best / float(np.median(model.scene.focal))
        if abs(ratio - 1) < 1e-6:
            break
        # The best may have been the last that was tried, or lie between two of them.
        model.scene.focal[:] *= ratio
        if profile.observable:
            model.options = replace(model.options, focal="shared")
        model.settle(rounds=1, tolerance=_TOLERANCE)
    return profile


def moving_sightings(
    tracks: Tracks, static_probability: np.ndarray, width: int, height: int
) -> np.ndarray:
    """Which observations lie where something moves, bool [M].

    Args:
        static_probability: of the cells of each frame, [N,h,w].
        width, height: of the picture that the tracks are in, pixels.
    """
    rows, columns = static_probability.shape[1:]
    column = np.clip((tracks.xy[:, 0] + 0.5) * columns / width, 0, columns - 1).astype(int)
    row = np.clip((tracks.xy[:, 1] + 0.5) * rows / height, 0, rows - 1).astype(int)
    return static_probability[tracks.frame, row, column] < 0.5


def _placed(path: CameraPath, tracks: Tracks, options: BundleOptions) -> Reconstruction:
    """The path's cameras and the tracks, nothing of which is part of the model yet."""
    lens = path.intrinsics
    model = Reconstruction(
        tracks, len(path), lens.fx[0], (lens.width, lens.height), options, _OUTLIER_PX[0]
    )
    pose = path.cam_from_world
    model.scene.rotation[:] = pose[:, :3, :3]
    if options.translate:
        model.scene.translation[:] = pose[:, :3, 3]
    return model


def _carry_over(model: Reconstruction, path: CameraPath, held: np.ndarray) -> None:
    """Frames not ``held`` [N] by the tracks follow the dense path, moved as their neighbours were."""
    if held.all() or not held.any():
        return
    scene, dense = model.scene, path.cam_from_world
    # world_from_dense: the motion from the dense world to the refined one, at each frame held.
    anchors = np.flatnonzero(held)
    turn = np.einsum("nji,njk->nik", scene.rotation[anchors], dense[anchors, :3, :3])
    centre = -np.einsum("nji,nj->ni", scene.rotation[anchors], scene.translation[anchors])
    shift = centre - np.einsum("nij,nj->ni", turn, path.world_from_cam[anchors, :3, 3])
    turn, shift = between_anchors(anchors, turn, shift, len(path))
    others = np.flatnonzero(~held)
    scene.rotation[others] = np.einsum("nij,nkj->nik", dense[others, :3, :3], turn[others])
    if model.options.translate:
        moved = np.einsum("nij,nj->ni", turn[others], path.world_from_cam[others, :3, 3])
        scene.translation[others] = -np.einsum(
            "nij,nj->ni", scene.rotation[others], moved + shift[others]
        )


def _explained(
    model: Reconstruction, tracks: Tracks, moving: np.ndarray
) -> tuple[np.ndarray, float]:
    """Share of the observations that stand still times that of the chosen ones that fit: of each
    frame [N], and of the clip."""
    num = len(model.registered)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.bincount(part, minlength=num) / np.maximum(np.bincount(whole, minlength=num), 1)

    fits = share(model.seen.camera[model.used], model.seen.camera)
    stands = share(tracks.frame[~moving], tracks.frame)
    return fits * stands, float(model.used.mean() * (1 - moving.mean()))
