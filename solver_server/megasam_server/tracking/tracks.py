"""Point tracks: where the same spot of the picture is seen from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tracks:
    """M observations of T tracks.

    Attributes:
        track: index of the track of each observation, 0 .. T-1, int64 [M].
        frame: index of the frame of each observation, int64 [M].
        xy: pixels of the frame store, centres at integers, float64 [M,2].
        num_tracks: T.
    """

    track: np.ndarray
    frame: np.ndarray
    xy: np.ndarray
    num_tracks: int

    @classmethod
    def from_observations(cls, track: np.ndarray, frame: np.ndarray, xy: np.ndarray) -> Tracks:
        """Number the tracks 0 .. T-1 in order of their ids and sort by track, then frame."""
        ids, dense = np.unique(track, return_inverse=True)
        order = np.lexsort((frame, dense))
        return cls(
            dense[order], np.asarray(frame)[order], np.asarray(xy, np.float64)[order], len(ids)
        )

    def lengths(self) -> np.ndarray:
        """Number of observations of each track, int64 [T]."""
        return np.bincount(self.track, minlength=self.num_tracks)

    def select(self, keep: np.ndarray) -> Tracks:
        """Only the observations where ``keep`` [M] is true; tracks are numbered anew."""
        return Tracks.from_observations(self.track[keep], self.frame[keep], self.xy[keep])

    def with_min_length(self, length: int) -> Tracks:
        """Only the tracks seen in at least ``length`` frames."""
        return self.select(self.lengths()[self.track] >= length)

    def shared(self, frame_a: int, frame_b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tracks seen in both frames: (track ids [K], xy in a [K,2], xy in b [K,2])."""
        in_a, in_b = np.flatnonzero(self.frame == frame_a), np.flatnonzero(self.frame == frame_b)
        ids, ia, ib = np.intersect1d(self.track[in_a], self.track[in_b], return_indices=True)
        return ids, self.xy[in_a[ia]], self.xy[in_b[ib]]


def join(first: Tracks, second: Tracks) -> Tracks:
    """Both sets of tracks side by side."""
    return Tracks.from_observations(
        np.concatenate([first.track, second.track + first.num_tracks]),
        np.concatenate([first.frame, second.frame]),
        np.concatenate([first.xy, second.xy]),
    )


def longest_spread(tracks: Tracks, per_frame: int, width: int, height: int) -> Tracks:
    """The longest tracks, spread over the picture: about ``per_frame`` of them in every frame.

    Each frame is divided into 8x6 cells and every cell names its longest tracks; a track that any frame names stays
    whole. Spreading keeps a textured mover from outvoting the room behind it.
    """
    column = np.clip((tracks.xy[:, 0] * 8 / width).astype(int), 0, 7)
    row = np.clip((tracks.xy[:, 1] * 6 / height).astype(int), 0, 5)
    cell = (tracks.frame * 6 + row) * 8 + column
    order = np.lexsort((-tracks.lengths()[tracks.track], cell))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(cell[order], cell[order])
    keep = np.zeros(tracks.num_tracks, bool)
    keep[tracks.track[rank < max(1, round(per_frame / 48))]] = True
    return tracks.select(keep[tracks.track])
