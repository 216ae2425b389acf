"""Long corner tracks with little drift: Lucas-Kanade from a reference frame, checked forward and backward.

Frame-to-frame Lucas-Kanade adds a small error at every step. Here each point is matched against the frame it was
found in, and the frame before only supplies the starting guess. When a point no longer looks as it did there, the
frame before becomes its new reference: the error grows once per change of look, not once per frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import cv2
import numpy as np

from megasam_server.media.frame_store import FrameStore
from megasam_server.tracking.tracks import Tracks

_MAX_POINTS = 1000
_CELLS = (12, 9)
_WINDOW = (21, 21)
_LEVELS = 4
_FORWARD_BACKWARD_PX = 0.7
_MIN_CORRELATION = 0.8
_REFILL_BELOW = 0.75
_MAX_REFERENCE_AGE = 30
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 0.003)


def detect_corners(gray: np.ndarray, taken: np.ndarray, allowed: np.ndarray | None, limit: int) -> np.ndarray:
    """New corners, spread over the picture, away from the points already there.

    Args:
        gray: uint8 [H,W].
        taken: points that exist already, float32 [K,2].
        allowed: uint8 [H,W], 0 where no corner may lie; None = everywhere.
        limit: how many points the picture may hold with the old ones.

    Returns:
        float32 [n,2], pixel centres at integers.
    """
    height, width = gray.shape
    distance = max(5, round(np.sqrt(width * height / (2.5 * _MAX_POINTS))))
    free = np.full(gray.shape, 255, np.uint8) if allowed is None else (allowed > 0).astype(np.uint8) * 255
    for x, y in taken:
        cv2.circle(free, (int(round(x)), int(round(y))), distance, 0, -1)
    found = cv2.goodFeaturesToTrack(gray, 4 * limit, 0.0005, distance, mask=free, blockSize=5)
    if found is None:
        return np.empty((0, 2), np.float32)
    found = found.reshape(-1, 2)
    # Strongest first within each cell, so that weak texture gets its share of points too.
    per_cell = int(np.ceil(limit / (_CELLS[0] * _CELLS[1])))
    room = np.full(_CELLS[0] * _CELLS[1], per_cell)
    np.subtract.at(room, _cell(taken, width, height), 1)
    cell = _cell(found, width, height)
    order = np.argsort(cell, kind="stable")
    rank = np.empty(len(found), np.int64)
    starts = np.searchsorted(cell[order], np.arange(len(room)))
    rank[order] = np.arange(len(found)) - starts[cell[order]]
    return found[rank < room[cell]]


def _cell(xy: np.ndarray, width: int, height: int) -> np.ndarray:
    column = np.clip((xy[:, 0] * _CELLS[0] / width).astype(int), 0, _CELLS[0] - 1)
    row = np.clip((xy[:, 1] * _CELLS[1] / height).astype(int), 0, _CELLS[1] - 1)
    return row * _CELLS[0] + column


def patch_correlation(gray_a: np.ndarray, gray_b: np.ndarray, xy_a: np.ndarray, xy_b: np.ndarray) -> np.ndarray:
    """Normalised cross-correlation of 11x11 patches round paired points, float [K] in -1..1."""
    dy, dx = np.mgrid[-5:6, -5:6].astype(np.float32)

    def patches(gray: np.ndarray, xy: np.ndarray) -> np.ndarray:
        map_x = (xy[:, 0, None] + dx.ravel()).astype(np.float32)
        map_y = (xy[:, 1, None] + dy.ravel()).astype(np.float32)
        # remap holds at most 32767 rows; tracks stay far below.
        values = cv2.remap(gray, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        values = values.astype(np.float32)
        values -= values.mean(axis=1, keepdims=True)
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-3)

    if len(xy_a) == 0:
        return np.empty(0, np.float32)
    return (patches(gray_a, xy_a) * patches(gray_b, xy_b)).sum(axis=1)


def _match(reference: np.ndarray, frame: np.ndarray, xy: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the points ``xy`` [K,2] of the reference in the frame: (xy [K,2], found for certain [K])."""
    options = dict(winSize=_WINDOW, maxLevel=_LEVELS, criteria=_CRITERIA, flags=cv2.OPTFLOW_USE_INITIAL_FLOW)
    found, ok, _ = cv2.calcOpticalFlowPyrLK(reference, frame, xy, guess.copy(), **options)
    # The way back starts from the common displacement, not from the answer it is to confirm.
    start = (found - np.median(found - xy, axis=0)).astype(np.float32)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(frame, reference, found, start, **options)
    height, width = frame.shape
    good = (ok.ravel() > 0) & (ok_back.ravel() > 0)
    good &= np.linalg.norm(back - xy, axis=1) < _FORWARD_BACKWARD_PX
    good &= (found > 1).all(axis=1) & (found[:, 0] < width - 2) & (found[:, 1] < height - 2)
    good[good] &= patch_correlation(reference, frame, xy[good], found[good]) > _MIN_CORRELATION
    return found, good


@dataclass
class _Active:
    """The points that are being followed, K at a time.

    Attributes:
        track: ids [K]. here, velocity: position and last displacement, float32 [K,2].
        reference, reference_xy: frame each point is matched against, [K], and where it lies there, float32 [K,2].
    """

    track: np.ndarray
    here: np.ndarray
    velocity: np.ndarray
    reference: np.ndarray
    reference_xy: np.ndarray

    def select(self, keep: np.ndarray) -> _Active:
        return _Active(*(getattr(self, field.name)[keep] for field in fields(self)))

    def extend(self, xy: np.ndarray, first_track: int, frame: int) -> _Active:
        """New points, found in ``frame``, that start with the common velocity of the others."""
        drift = np.median(self.velocity, axis=0) if len(self.velocity) else np.zeros(2)
        return _Active(
            np.concatenate([self.track, np.arange(first_track, first_track + len(xy))]),
            np.concatenate([self.here, xy]),
            np.concatenate([self.velocity, np.tile(drift, (len(xy), 1))]).astype(np.float32),
            np.concatenate([self.reference, np.full(len(xy), frame)]),
            np.concatenate([self.reference_xy, xy]),
        )


def follow_corners(
    frames: FrameStore, user_masks: FrameStore | None, report: Callable[[int, int], None]
) -> Tracks:
    """Track corners through the whole clip.

    Args:
        frames: N frames, RGB.
        user_masks: 1 = leave out.
        report: called with (frames done, N).

    Returns:
        tracks of at least two observations.
    """
    none = np.empty((0, 2), np.float32)
    points = _Active(np.empty(0, int), none, none, np.empty(0, int), none)
    references: dict[int, np.ndarray] = {}
    num_tracks, log = 0, []
    before: np.ndarray | None = None
    for t in range(frames.num_frames):
        frame = cv2.cvtColor(frames.frame(t), cv2.COLOR_RGB2GRAY)
        allowed = None if user_masks is None else 1 - user_masks.frame(t)
        if before is not None and len(points.track):
            points = _advance(points, references, before, frame, t)
            if allowed is not None:
                column, row = np.round(points.here).astype(int).T
                points = points.select(allowed[row, column] > 0)
        if len(points.track) < _REFILL_BELOW * _MAX_POINTS:
            new = detect_corners(frame, points.here, allowed, _MAX_POINTS)
            points = points.extend(new, num_tracks, t)
            num_tracks += len(new)
        log.append((points.track, np.full(len(points.track), t), points.here))
        used = set(points.reference.tolist())
        references = {k: v for k, v in (references | {t: frame}).items() if k in used}
        before = frame
        report(t + 1, frames.num_frames)
    tracks = Tracks.from_observations(*(np.concatenate([entry[i] for entry in log]) for i in range(3)))
    return tracks.with_min_length(2)


def _advance(
    points: _Active, references: dict[int, np.ndarray], before: np.ndarray, frame: np.ndarray, t: int
) -> _Active:
    """Follow the points into frame ``t``; the lost ones are left out."""
    found, good = points.here.copy(), np.zeros(len(points.track), bool)
    guess = points.here + points.velocity
    for index, reference in references.items():
        rows = np.flatnonzero((points.reference == index) & (t - index <= _MAX_REFERENCE_AGE))
        if len(rows):
            found[rows], good[rows] = _match(reference, frame, points.reference_xy[rows], guess[rows])
    lost = np.flatnonzero(~good)
    if len(lost):
        found[lost], good[lost] = _match(before, frame, points.here[lost], guess[lost])
        points.reference[lost], points.reference_xy[lost] = t - 1, points.here[lost]
        references[t - 1] = before
    points.velocity, points.here = found - points.here, found
    return points.select(good)
