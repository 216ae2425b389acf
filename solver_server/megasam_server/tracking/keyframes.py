"""Which frames carry the reconstruction: enough of them to overlap well, few enough to be quick."""

from __future__ import annotations

import numpy as np

from megasam_server.tracking.tracks import Tracks

_MOTION = 0.04
_MIN_SHARED = 0.5
_MAX_GAP = 6


def select_keyframes(tracks: Tracks, num_frames: int, long_side: int) -> list[int]:
    """Frames after which the picture has moved on.

    A frame becomes a keyframe when the tracks shared with the last one have moved by 4 % of the
    long side (median), when fewer than half of them are left, or after 6 frames. The first and the
    last frame always are.

    Args:
        tracks: optical tracks. num_frames: N. long_side: of the picture, pixels.

    Returns:
        ascending frame indices.
    """
    order = np.argsort(tracks.frame, kind="stable")
    starts = np.searchsorted(tracks.frame[order], np.arange(num_frames + 1))
    position = np.full((tracks.num_tracks, 2), np.nan)

    def seen_in(frame: int) -> np.ndarray:
        return order[starts[frame] : starts[frame + 1]]

    keyframes = [0]
    first = seen_in(0)
    position[tracks.track[first]] = tracks.xy[first]
    for t in range(1, num_frames):
        rows = seen_in(t)
        moved = np.linalg.norm(tracks.xy[rows] - position[tracks.track[rows]], axis=1)
        shared = np.isfinite(moved)
        few = shared.sum() < max(1, _MIN_SHARED * len(seen_in(keyframes[-1])))
        if (
            t == num_frames - 1
            or t - keyframes[-1] >= _MAX_GAP
            or few
            or np.median(moved[shared]) > _MOTION * long_side
        ):
            keyframes.append(t)
            position[:] = np.nan
            position[tracks.track[rows]] = tracks.xy[rows]
    return keyframes
