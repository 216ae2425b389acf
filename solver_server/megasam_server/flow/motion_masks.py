"""Which pixels move by themselves: what the flow shows and no static scene can.

1. Every pixel gets the inverse depth, between zero and the nearest plausible, that explains all its flow
   vectors best (several pairs at once, see :func:`fit_inverse_depth`). What remains is motion across the
   epipolar line (Sampson's distance), along it to impossible depths, or differing from pair to pair.
2. That remainder, in units of the clip's own noise, is a vote for motion, as far as the picture itself
   bears it out: where the static prediction matches the other frame as well as the flow does (walls
   without texture) there is no case. Pixels with texture and agreeing forward and backward flow vote
   louder, the others follow them along image edges.
3. Votes are averaged with those of neighbouring frames along the flow, thresholded with hysteresis and
   cleaned of specks.

Steps 1 to 3 work on every second pixel in both directions; the threshold on all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from megasam_server.flow.dense_frames import DenseFrames
from megasam_server.flow.flow_store import FlowStore
from megasam_server.flow.guided_filter import GuidedFilter
from megasam_server.flow.in_order import map_in_order
from megasam_server.flow.rigid_fit import RigidFit, inverse_depth_limits
from megasam_server.flow.sightings import FlowSighting, sightings_of_frame
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.two_view import fit_inverse_depth, pixel_grid

STRIDE = 2

TOLERANCE_SIGMA = 3.5
"""Remainder at which a pixel is as likely moving as not, in sigmas of the pair."""

PARALLAX_ERROR = 0.04
"""Flow is wrong by this share of the parallax where depths mix (edges, thin things)."""

TEXTURE_GRADIENT = 3.0
"""Gradient, grey levels per pixel in the worse direction, at which flow is half trusted."""

GREY_NOISE = 4.0
"""Grey levels by which two pictures of the same thing differ; smaller misfits prove nothing."""

SURE, LIKELY = 0.6, 0.45
"""Hysteresis: a region needs a sure pixel and grows over the likely ones."""

SPECK = 1 / 2500
"""Regions (and holes) smaller than this share of the picture are removed."""


def texture_weight(grey: np.ndarray) -> np.ndarray:
    """How well a pixel's surroundings pin the flow down in both directions, 0-1 float32 [h,w]."""
    smooth = cv2.GaussianBlur(grey, (5, 5), 1.0)
    least = np.maximum(cv2.cornerMinEigenVal(smooth, 7, 3), 0)
    # OpenCV scales the Sobel gradients of 8-bit pictures by 1 / (4 * 255 * 7) and sums 49 of their
    # squares; Sobel itself is 8 times the gradient.
    least *= np.float32(np.square(4 * 255 * 7 / 8) / 49)
    return least / (least + np.float32(TEXTURE_GRADIENT**2))


def _misfit(grey: np.ndarray, other: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Mean squared difference of ``grey`` [h,w] and ``other`` sampled at ``at`` [2,h,w], 7x7 window."""
    at = np.nan_to_num(at, nan=-1e4)
    sampled = cv2.remap(other, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.blur(np.square(grey - sampled), (7, 7))


def motion_votes(
    sightings: list[FlowSighting],
    limits: tuple[float, float],
    grey: np.ndarray,
    other_grey: Callable[[int], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Vote (0 = static, 1 = moving) and its loudness (0-1) for every pixel of a grid, float32 [h,w].

    Args:
        sightings: of the grid.
        limits: inverse depths that static pixels may have.
        grey: the frame at the grid's pixels, float32 [h,w].
        other_grey: gives the whole picture of another frame, float32.
    """
    inverse_depth, _ = fit_inverse_depth([s.sighting for s in sightings], limits)
    votes, loud = np.zeros_like(grey), np.full_like(grey, 1e-6)
    for s in sightings:
        view, infinity, seen = s.sighting.view, s.sighting.infinity, s.sighting.seen
        static = view.project(infinity, inverse_depth)
        error2 = np.square(seen - static).sum(axis=0)
        parallax2 = np.square(seen - view.project(infinity, 0.0)).sum(axis=0)
        allowed2 = np.float32((TOLERANCE_SIGMA * s.sigma) ** 2) + PARALLAX_ERROR**2 * parallax2
        vote = np.nan_to_num(error2 / (error2 + allowed2), nan=1.0)
        other = other_grey(s.frame)
        by_flow = _misfit(grey, other, seen) + np.float32(GREY_NOISE**2)
        gain = np.maximum(_misfit(grey, other, static) / by_flow - 1, 0)
        votes += s.trust * vote * (gain / (gain + np.float32(0.5)))
        loud += s.trust
    return votes / loud, loud / max(len(sightings), 1)


def _write_votes(
    path: Path,
    frames: DenseFrames,
    store: FlowStore,
    cameras: CameraPath,
    rigid: RigidFit,
    near_inverse_depth: np.ndarray,
    report: Callable[[int], None],
) -> None:
    """Write the probability of motion from each frame's own flow, uint8 [N,h/2,w/2]."""
    radius = max(2, max(store.width, store.height) // (80 * STRIDE))

    def soft_grey(frame: int) -> np.ndarray:
        return cv2.GaussianBlur(frames.grey(frame), (3, 3), 0).astype(np.float32)

    def probability(frame: int) -> np.ndarray:
        limits = inverse_depth_limits(near_inverse_depth[frame])
        sightings = sightings_of_frame(store, cameras, rigid, frame, STRIDE)
        votes, loud = motion_votes(
            sightings, limits, soft_grey(frame)[::STRIDE, ::STRIDE], soft_grey
        )
        weight = loud * (texture_weight(frames.grey(frame))[::STRIDE, ::STRIDE] + 0.01)
        guide = cv2.blur(frames.rgb(frame), (3, 3))[::STRIDE, ::STRIDE]
        edges = GuidedFilter(guide.astype(np.float32) / 255, radius, smoothness=1e-3)
        total = np.maximum(edges.smooth(weight), 1e-4)
        return np.clip(edges.smooth(weight * votes) / total, 0, 1)

    count = len(frames)
    with path.open("wb") as file:
        for frame, result in enumerate(map_in_order(probability, range(count))):
            file.write((result * 255).astype(np.uint8).tobytes())
            report(frame + 1)


def _remove_specks(mask: np.ndarray, least_area: int) -> np.ndarray:
    """``mask`` (uint8 0/1) without connected regions of less than ``least_area`` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= least_area
    keep[0] = False
    return keep[labels].astype(np.uint8)


def clean_mask(probability: np.ndarray) -> np.ndarray:
    """Probability of motion, float32 0-1 [h,w], to a mask uint8 [h,w]: hysteresis, no specks or pinholes."""
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


def _write_masks(
    votes_path: Path,
    masks_path: Path,
    store: FlowStore,
    count: int,
    report: Callable[[int], None],
) -> float:
    """Average votes along the flow, write the masks, return the moving share."""
    x, y = (grid[::STRIDE, ::STRIDE] / STRIDE for grid in pixel_grid(store.height, store.width))
    shape = (y.shape[0], x.shape[1])

    def read_votes(frame: int) -> np.ndarray:
        size = shape[0] * shape[1]
        flat = np.fromfile(votes_path, np.uint8, count=size, offset=frame * size)
        return flat.reshape(shape).astype(np.float32)

    def mask_of(frame: int) -> np.ndarray:
        total, weight = read_votes(frame), np.ones(shape, np.float32)
        for p in store.pairs_from(frame):
            flow = store.flow(p)[:, ::STRIDE, ::STRIDE] / STRIDE
            trust = 0.5 * store.trust(p)[::STRIDE, ::STRIDE]
            there = read_votes(int(store.pairs[p, 1]))
            total += trust * cv2.remap(there, flow[0] + x, flow[1] + y, cv2.INTER_LINEAR)
            weight += trust
        return clean_mask(cv2.resize(total / (255 * weight), (store.width, store.height)))

    moving = 0
    with masks_path.open("wb") as file:
        for frame, mask in enumerate(map_in_order(mask_of, range(count))):
            moving += int(np.count_nonzero(mask))
            file.write(mask.tobytes())
            report(frame + 1)
    return moving / (count * store.height * store.width)


def find_moving(
    frames: DenseFrames,
    store: FlowStore,
    cameras: CameraPath,
    rigid: RigidFit,
    near_inverse_depth: np.ndarray,
    folder: Path,
    report: Callable[[int], None],
) -> tuple[np.ndarray, float]:
    """Motion masks of a clip.

    Args:
        cameras: at the size of ``frames``.
        near_inverse_depth: [N] inverse depth of the nearest solved points; 0 = rotation only (tripod).
        folder: where ``motion_votes.u8`` and ``motion_masks.u8`` are written.
        report: called with the frames done, up to twice their number.

    Returns:
        masks, uint8 [N,h,w] read-only memory map, 1 = moving; and their mean.
    """
    count = len(frames)
    votes_path, masks_path = folder / "motion_votes.u8", folder / "motion_masks.u8"
    _write_votes(votes_path, frames, store, cameras, rigid, near_inverse_depth, report)
    share = _write_masks(votes_path, masks_path, store, count, lambda done: report(count + done))
    shape = (count, store.height, store.width)
    return np.memmap(masks_path, np.uint8, mode="r", shape=shape), share
