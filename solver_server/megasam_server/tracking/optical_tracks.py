"""Long corner tracks with little drift.

Each corner keeps the patch it was found with. From frame to frame pyramidal Lucas-Kanade brings
it near, checked forward and backward; then the patch is aligned with an affine motion model
against what it looked like at first, so errors do not add up. When it no longer looks like that,
it takes a new patch: the error grows once per change of look, not per frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import cv2
import numpy as np

from megasam_server.media.frame_store import FrameStore
from megasam_server.tracking.patch_alignment import RADIUS, align, cut_patches
from megasam_server.tracking.tracks import Tracks

_MAX_POINTS = 1000
_CELLS = (12, 9)
_LEVELS = 4
_LK = dict(
    winSize=(15, 15),
    criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01),
    flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    maxLevel=_LEVELS,
)
_FORWARD_BACKWARD_PX = 1.0
_MIN_CORRELATION = 0.85
_MAX_ALIGNMENT_PX = 2.0
_REFILL_BELOW = 0.75


def detect_corners(
    gray: np.ndarray, taken: np.ndarray, allowed: np.ndarray | None, limit: int
) -> np.ndarray:
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
    free = (
        np.full(gray.shape, 255, np.uint8)
        if allowed is None
        else (allowed > 0).astype(np.uint8) * 255
    )
    # A patch that hangs over the edge is aligned against made-up pixels.
    margin = RADIUS + 1
    free[:margin] = free[-margin:] = 0
    free[:, :margin] = free[:, -margin:] = 0
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


@dataclass
class _Active:
    """The points that are being followed, K at a time.

    Attributes:
        track: ids [K]. here, velocity: position and last displacement, float32 [K,2].
        template: what the point looked like, float32 [K,225]. affine: how that is deformed by now, float32 [K,2,2].
    """

    track: np.ndarray
    here: np.ndarray
    velocity: np.ndarray
    template: np.ndarray
    affine: np.ndarray

    @classmethod
    def none(cls) -> _Active:
        xy = np.empty((0, 2), np.float32)
        return cls(
            np.empty(0, int),
            xy,
            xy,
            cut_patches(np.zeros((8, 8), np.uint8), xy),
            np.empty((0, 2, 2), np.float32),
        )

    def select(self, keep: np.ndarray) -> _Active:
        return _Active(*(getattr(self, field.name)[keep] for field in fields(self)))

    def extend(self, xy: np.ndarray, first_track: int, gray: np.ndarray) -> _Active:
        """New points, found in ``gray``, that start with the common velocity of the others."""
        drift = np.median(self.velocity, axis=0) if len(self.velocity) else np.zeros(2)
        return _Active(
            np.concatenate([self.track, np.arange(first_track, first_track + len(xy))]),
            np.concatenate([self.here, xy]),
            np.concatenate([self.velocity, np.tile(drift, (len(xy), 1))]).astype(np.float32),
            np.concatenate([self.template, cut_patches(gray, xy)]),
            np.concatenate([self.affine, np.tile(np.eye(2, dtype=np.float32), (len(xy), 1, 1))]),
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
    points, num_tracks, log = _Active.none(), 0, []
    before: np.ndarray | None = None
    for t in range(frames.num_frames):
        gray = cv2.cvtColor(frames.frame(t), cv2.COLOR_RGB2GRAY)
        allowed = None if user_masks is None else 1 - user_masks.frame(t)
        if before is not None and len(points.track):
            points = _advance(points, before, gray)
            if allowed is not None:
                column, row = np.round(points.here).astype(int).T
                points = points.select(allowed[row, column] > 0)
        if len(points.track) < _REFILL_BELOW * _MAX_POINTS:
            new = detect_corners(gray, points.here, allowed, _MAX_POINTS)
            points = points.extend(new, num_tracks, gray)
            num_tracks += len(new)
        log.append((points.track, np.full(len(points.track), t), points.here))
        before = gray
        report(t + 1, frames.num_frames)
    tracks = Tracks.from_observations(
        *(np.concatenate([entry[i] for entry in log]) for i in range(3))
    )
    return tracks.with_min_length(2)


def _advance(points: _Active, before: np.ndarray, gray: np.ndarray) -> _Active:
    """Follow the points into the next frame; the lost ones are left out."""
    guess = points.here + points.velocity
    near, ok, _ = cv2.calcOpticalFlowPyrLK(before, gray, points.here, guess, **_LK)
    # The way back starts from the common displacement, not from the answer it is to confirm.
    start = (near - np.median(near - points.here, axis=0)).astype(np.float32)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(gray, before, near, start, **_LK)
    good = (ok.ravel() > 0) & (ok_back.ravel() > 0)
    good &= np.linalg.norm(back - points.here, axis=1) < _FORWARD_BACKWARD_PX
    good &= _inside(near, gray)
    previous, points, near = points.here[good], points.select(good), near[good]

    here, affine, correlation = align(gray, points.template, near, points.affine)
    same = correlation > _MIN_CORRELATION
    same &= np.linalg.norm(here - near, axis=1) < _MAX_ALIGNMENT_PX
    changed = np.flatnonzero(~same)
    if len(changed):
        upright = np.tile(np.eye(2, dtype=np.float32), (len(changed), 1, 1))
        look = cut_patches(before, previous[changed])
        here[changed], affine[changed], correlation[changed] = align(
            gray, look, near[changed], upright
        )
        points.template[changed] = look
    good = correlation > _MIN_CORRELATION
    good &= np.linalg.norm(here - near, axis=1) < _MAX_ALIGNMENT_PX
    good &= _inside(here, gray)
    points.velocity, points.here, points.affine = here - previous, here, affine
    return points.select(good)


def _inside(xy: np.ndarray, gray: np.ndarray) -> np.ndarray:
    """Points whose patch lies wholly in the picture, bool [K]."""
    height, width = gray.shape
    margin = RADIUS + 1
    return (xy >= margin).all(axis=1) & (xy[:, 0] < width - margin) & (xy[:, 1] < height - margin)
