"""Which pixels move by themselves: what the flow shows and no static scene can.

1. Every pixel gets the inverse depth, between zero and the nearest plausible, that explains all its
   flow vectors best (several pairs at once, see :func:`fit_inverse_depth`). What remains is motion
   across the epipolar line (Sampson's distance), along it to impossible depths, or differing from
   pair to pair.
2. That remainder, in units of the clip's own noise, is a vote for motion, as far as the picture
   bears it out: where the static prediction matches the other frame as well as the flow does (walls
   without texture) there is no case. Pixels with texture and agreeing forward and backward flow
   vote louder, the others follow them along image edges.
3. Motion along the epipolar line shows only over longer times, see :mod:`see_through`.
4. Votes are averaged with those of neighbouring frames along the flow, thresholded with hysteresis
   and cleaned of specks.

All but the threshold works on every second pixel in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from megasam_server.flow.dense_frames import DenseFrames
from megasam_server.flow.flow_store import FlowStore
from megasam_server.flow.guided_filter import GuidedFilter
from megasam_server.flow.rigid_depth import (
    STRIDE,
    RigidDepth,
    RigidDepthStore,
    structure_tensor,
    texture_weight,
    triangulate,
    weigh_along_epipolar_lines,
)
from megasam_server.flow.rigid_fit import RigidFit, inverse_depth_limits
from megasam_server.flow.see_through import contradictions
from megasam_server.flow.sightings import FlowSighting, sightings_of_frame
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.two_view import pixel_grid
from megasam_server.media.in_order import map_in_order

TOLERANCE_SIGMA = 3.5
"""Remainder at which a pixel is as likely moving as not, in sigmas of the pair."""

PARALLAX_ERROR = 0.04
"""Flow is wrong by this share of the parallax where depths mix (edges, thin things)."""

GREY_NOISE = 4.0
"""Most grey levels of difference that are put down to noise; a cleaner pair sets less."""

SURE, LIKELY = 0.6, 0.45
"""Hysteresis: a region needs a sure pixel and grows over the likely ones."""

SPECK = 1 / 2500
"""Regions (and holes) smaller than this share of the picture are removed."""


def _misfit(grey: np.ndarray, other: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Mean squared difference (7x7) of ``grey`` [h,w] and ``other`` sampled at ``at`` [2,h,w]."""
    at = np.nan_to_num(at, nan=-1e4)
    sampled = cv2.remap(other, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.blur(np.square(grey - sampled), (7, 7))


def motion_votes(
    sightings: list[FlowSighting],
    inverse_depth: np.ndarray,
    grey: np.ndarray,
    other_grey: Callable[[int], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Vote (0 = static, 1 = moving) and its loudness (0-1) for every grid pixel, float32 [h,w].

    Args:
        sightings: of the grid.
        inverse_depth: that explains them best, world units, float32 [h,w].
        grey: the frame at the grid's pixels, float32 [h,w].
        other_grey: gives the whole picture of another frame, float32.
    """
    votes, loud = np.zeros_like(grey), np.full_like(grey, 1e-6)
    for s in sightings:
        view, infinity, seen = s.sighting.view, s.sighting.infinity, s.sighting.seen
        static = view.project(infinity, inverse_depth)
        error2 = np.square(seen - static).sum(axis=0)
        parallax2 = np.square(seen - view.project(infinity, 0.0)).sum(axis=0)
        allowed2 = np.float32((TOLERANCE_SIGMA * s.sigma) ** 2) + PARALLAX_ERROR**2 * parallax2
        vote = np.nan_to_num(error2 / (error2 + allowed2), nan=1.0)
        other = other_grey(s.frame)
        by_flow = _misfit(grey, other, seen)
        noise2 = np.clip(2 * np.median(by_flow), 1, GREY_NOISE**2).astype(np.float32)
        gain = np.maximum((_misfit(grey, other, static) + noise2) / (by_flow + noise2) - 1, 0)
        votes += s.trust * vote * (gain / (gain + np.float32(0.5)))
        loud += s.trust
    return votes / loud, loud / max(len(sightings), 1)


def _remove_specks(mask: np.ndarray, least_area: int) -> np.ndarray:
    """``mask`` (uint8 0/1) without connected regions of less than ``least_area`` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= least_area
    keep[0] = False
    return keep[labels].astype(np.uint8)


def clean_mask(probability: np.ndarray) -> np.ndarray:
    """Probability of motion (0-1) to a mask uint8 [h,w]: hysteresis, no specks, no pinholes."""
    likely = (probability > LIKELY).astype(np.uint8)
    _, labels = cv2.connectedComponents(likely, connectivity=4)
    sure = np.zeros(labels.max() + 1, bool)
    sure[labels[(probability > SURE) & (likely > 0)]] = True
    mask = sure[labels].astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
    least_area = max(4, int(mask.size * SPECK))
    mask = _remove_specks(mask, least_area)
    return 1 - _remove_specks(1 - mask, least_area)


class _VoteFiles:
    """Bytes 0-255 for values 0-1 on the half-size grid, a file per kind, frame after frame."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._path, self._shape = path, shape
        path.write_bytes(b"")

    def append(self, values: np.ndarray) -> None:
        with self._path.open("ab") as file:
            file.write((values * 255).astype(np.uint8).tobytes())

    def read(self, frame: int) -> np.ndarray:
        size = self._shape[0] * self._shape[1]
        flat = np.fromfile(self._path, np.uint8, count=size, offset=frame * size)
        return flat.reshape(self._shape).astype(np.float32) * np.float32(1 / 255)


class MotionFinder:
    """The passes over a clip that end in its motion masks; every pass needs the one before.

    Args:
        frames, cameras: at the same size.
        store, rigid: flow of the frames and how rigid motion fits it.
        near_inverse_depth: [N] inverse depth of the nearest solved points; 0 = tripod.
        unit: typical depth, world units.
        folder: for files.
    """

    def __init__(
        self,
        frames: DenseFrames,
        cameras: CameraPath,
        store: FlowStore,
        rigid: RigidFit,
        near_inverse_depth: np.ndarray,
        unit: float,
        folder: Path,
    ) -> None:
        self._frames, self._cameras, self._store, self._rigid = frames, cameras, store, rigid
        self._near = near_inverse_depth
        self._shape = (-(-frames.height // STRIDE), -(-frames.width // STRIDE))
        self._votes = _VoteFiles(folder / "motion_votes.u8", self._shape)
        self._loudness = _VoteFiles(folder / "motion_loudness.u8", self._shape)
        self._probability = _VoteFiles(folder / "motion_probability.u8", self._shape)
        self._masks_path = folder / "motion_masks.u8"
        self.depth = RigidDepthStore(folder / "rigid_depth.f16", *self._shape, unit)

    def _soft_grey(self, frame: int) -> np.ndarray:
        return cv2.GaussianBlur(self._frames.grey(frame), (3, 3), 0).astype(np.float32)

    def _explain_frame(self, frame: int) -> tuple[RigidDepth, np.ndarray, np.ndarray]:
        sightings = sightings_of_frame(self._store, self._cameras, self._rigid, frame, STRIDE)
        structure = structure_tensor(self._frames.grey(frame))
        weigh_along_epipolar_lines(sightings, structure)
        limits = inverse_depth_limits(self._near[frame])
        depth = triangulate(sightings, limits, self.depth.unit)
        votes, loud = motion_votes(
            sightings,
            depth.inverse_depth / np.float32(self.depth.unit),
            self._soft_grey(frame)[::STRIDE, ::STRIDE],
            self._soft_grey,
        )
        return depth, votes, loud * (0.99 * texture_weight(structure) + 0.01)

    def explain(self, report: Callable[[int], None]) -> None:
        """Pass 1: the best static explanation of every frame's flow and the votes against it."""
        count = len(self._frames)
        for frame, (depth, votes, loud) in enumerate(
            map_in_order(self._explain_frame, range(count))
        ):
            self.depth.append(depth)
            self._votes.append(votes)
            self._loudness.append(loud)
            report(frame + 1)

    def _weigh_frame(self, frame: int) -> np.ndarray:
        votes, loud = self._votes.read(frame), self._loudness.read(frame) + np.float32(1e-3)
        if self._near[frame] > 0:
            against = contradictions(frame, self.depth, self._cameras)
            votes = 1 - (1 - votes) * (1 - against)
        guide = cv2.blur(self._frames.rgb(frame), (3, 3))[::STRIDE, ::STRIDE]
        radius = max(2, max(self._shape) // 80)
        edges = GuidedFilter(guide.astype(np.float32) / 255, radius, smoothness=1e-3)
        total = np.maximum(edges.smooth(loud), 1e-4)
        return np.clip(edges.smooth(loud * votes) / total, 0, 1)

    def weigh(self, report: Callable[[int], None]) -> None:
        """Pass 2: contradictions between frames, and votes spread along the picture's edges."""
        count = len(self._frames)
        for frame, probability in enumerate(map_in_order(self._weigh_frame, range(count))):
            self._probability.append(probability)
            report(frame + 1)

    def _mask_frame(self, frame: int) -> np.ndarray:
        height, width = self._frames.height, self._frames.width
        x, y = (grid[::STRIDE, ::STRIDE] / STRIDE for grid in pixel_grid(height, width))
        x, y = x[:, : self._shape[1]], y[: self._shape[0]]
        total, weight = self._probability.read(frame), np.ones(self._shape, np.float32)
        for p in self._store.pairs_from(frame):
            flow = self._store.flow(p)[:, ::STRIDE, ::STRIDE] / STRIDE
            trust = 0.5 * self._store.trust(p)[::STRIDE, ::STRIDE]
            there = self._probability.read(int(self._store.pairs[p, 1]))
            total += trust * cv2.remap(there, flow[0] + x, flow[1] + y, cv2.INTER_LINEAR)
            weight += trust
        return clean_mask(cv2.resize(total / weight, (width, height)))

    def masks(
        self, report: Callable[[int], None], show: Callable[[int, np.ndarray], None]
    ) -> tuple[np.ndarray, float]:
        """Pass 3: agree with neighbouring frames and decide.

        Args:
            show: told each frame and its mask, uint8 [h,w].

        Returns:
            masks, uint8 [N,h,w] read-only memory map, 1 = moving; and their mean.
        """
        shape = (len(self._frames), self._frames.height, self._frames.width)
        moving = 0
        with self._masks_path.open("wb") as file:
            for frame, mask in enumerate(map_in_order(self._mask_frame, range(shape[0]))):
                moving += int(np.count_nonzero(mask))
                file.write(mask.tobytes())
                show(frame, mask)
                report(frame + 1)
        masks = np.memmap(self._masks_path, np.uint8, mode="r", shape=shape)
        return masks, moving / masks.size
