"""Tracks of a whole clip: corners from frame to frame, and features from keyframe to keyframe."""

from __future__ import annotations

from collections.abc import Callable

from megasam_server.media.frame_store import FrameStore
from megasam_server.tracking.feature_tracks import match_keyframes
from megasam_server.tracking.keyframes import select_keyframes
from megasam_server.tracking.optical_tracks import follow_corners
from megasam_server.tracking.tracks import Tracks, join


def find_tracks(
    frames: FrameStore,
    user_masks: FrameStore | None,
    report: Callable[[str, int, int, str], None],
) -> tuple[Tracks, list[int]]:
    """Everything in the clip that can be followed.

    Args:
        frames: N frames, RGB. user_masks: 1 = leave out.
        report: called with step (``corners``, then ``features``), steps done, steps, what is done.

    Returns:
        tracks of at least three observations (two, in a clip of two frames), movers among them; and
        the keyframes, ascending.
    """
    corners = follow_corners(
        frames, user_masks, lambda done, of: report("corners", done, of, "following corners")
    )
    size = max(frames.width, frames.height)
    keyframes = select_keyframes(corners, frames.num_frames, size)
    note = f"matching {len(keyframes)} keyframes"
    features = match_keyframes(
        frames, user_masks, keyframes, lambda done, of: report("features", done, of, note)
    )
    return join(corners, features).with_min_length(min(3, frames.num_frames)), keyframes
