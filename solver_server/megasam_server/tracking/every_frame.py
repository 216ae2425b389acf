"""From keyframes to all frames of the plate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from megasam_shared.quality import Notice
from scipy.spatial.transform import Rotation, Slerp

from megasam_server.tracking.bundle import Scene
from megasam_server.tracking.reconstruction import Reconstruction
from megasam_server.tracking.tracks import Tracks

# Beyond this many frames the dense reduced system of all cameras costs too much: keyframes stay as they are then.
MOST_JOINT_FRAMES = 200
_MIN_TRACKS = 12
# Frames placed at a time: memory follows this number and not the length of the clip.
_BATCH = 40


def pose_every_frame(
    model: Reconstruction, keyframes: list[int], tracks: Tracks, num_frames: int
) -> Reconstruction:
    """Give every frame a pose and adjust everything together.

    Frames between keyframes start on the interpolated path, are placed by the points they see (points held), and
    then take part in the adjustment of everything.

    Args:
        model: solved keyframes; unregistered ones are treated like the frames between.
        keyframes: frame index of each of its cameras. tracks: in all frames. num_frames: N.

    Returns:
        a reconstruction whose cameras are the N frames, all registered.
    """
    known = np.flatnonzero(model.registered)
    anchors = np.array(keyframes)[known]
    full = Reconstruction(tracks, num_frames, 1.0, model.size, model.options, model.outlier_px)
    full.scene = _interpolated(model.scene, known, anchors, num_frames, full.scene.points)
    full.registered[anchors] = True
    full.extend_points()
    place_frames(full, np.setdiff1d(np.arange(num_frames), anchors))
    if num_frames <= MOST_JOINT_FRAMES:
        refine(full)
    return full


def place_frames(model: Reconstruction, between: np.ndarray) -> None:
    """Make all frames part of the model; those ``between`` are first moved onto the points they see."""
    model.registered[:] = True
    for start in range(0, len(between), _BATCH):
        _place(model, between[start : start + _BATCH])
    model.filter()
    model.extend_points()


def _place(model: Reconstruction, frames: np.ndarray) -> None:
    """Move only these frames, from the interpolated path onto the points they see."""
    alone = Reconstruction.copy_of(model)
    alone.scene = model.scene
    alone.registered = np.isin(np.arange(len(model.registered)), frames)
    nothing_fixed = np.zeros(len(frames), bool)
    for loss in (6.0, 2.0, 1.0):
        alone.adjust(
            fixed_points=True,
            fixed_cameras=nothing_fixed,
            focal="fixed",
            distortion=False,
            loss_px=loss,
            iterations=8,
        )


def refine(model: Reconstruction, tolerance: float = 1e-5) -> None:
    """Final adjustment, with loss and outlier bound fitted to the noise of this clip."""
    for _ in range(2):
        noise = float(np.median(model.residual_px()))
        model.outlier_px = float(np.clip(6 * noise, 1.0, 3.0))
        model.filter()
        model.extend_points()
        model.options = replace(model.options, loss_px=float(np.clip(2 * noise, 0.3, 1.0)))
        model.adjust(iterations=12, tolerance=tolerance)
    model.filter()


def weakly_seen(model: Reconstruction) -> np.ndarray:
    """Frames whose pose rests on fewer than 12 static tracks, bool [N]."""
    seen = np.bincount(model.seen.camera[model.used], minlength=len(model.registered))
    return seen < _MIN_TRACKS


def weak_frames_notice(weak: np.ndarray, frame_numbers: list[int]) -> Notice:
    """For the artist; ``weak`` from :func:`weakly_seen`, numbers of the plate."""
    first = frame_numbers[int(np.argmax(weak))]
    return Notice(
        "weak_frames",
        f"{weak.sum()} of {len(weak)} frames see too few static points; their pose follows the "
        f"neighbours (first: frame {first}).",
        "Look at these frames; blur, or a mover that fills the picture, is the usual cause.",
    )


def _interpolated(
    scene: Scene, known: np.ndarray, anchors: np.ndarray, num_frames: int, points: np.ndarray
) -> Scene:
    """Cameras at all frames from those at ``anchors``."""
    rotation = scene.rotation[known]
    centre = -np.einsum("nji,nj->ni", rotation, scene.translation[known])
    turned, moved = between_anchors(anchors, rotation, centre, num_frames)
    focal = np.exp(np.interp(np.arange(num_frames), anchors, np.log(scene.focal[known])))
    return Scene(turned, -np.einsum("nij,nj->ni", turned, moved), focal, points, scene.k1)


def between_anchors(
    anchors: np.ndarray, rotation: np.ndarray, place: np.ndarray, num_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rotations [A,3,3] and places [A,3] known at frames ``anchors``, ascending, at all N frames: slerp,
    straight lines, constant beyond the ends."""
    frames = np.clip(np.arange(num_frames), anchors[0], anchors[-1])
    if len(anchors) == 1:
        turned = np.repeat(rotation, num_frames, axis=0)
    else:
        turned = Slerp(anchors, Rotation.from_matrix(rotation))(frames).as_matrix()
    moved = np.stack([np.interp(frames, anchors, place[:, axis]) for axis in range(3)], axis=1)
    return turned, moved
