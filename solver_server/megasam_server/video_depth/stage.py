"""Stage 5: a depth map for every frame that agrees with the cameras and from frame to frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from megasam_shared.quality import Notice
from megasam_shared.settings import SolveSettings

from megasam_server.flow.dense_frames import DenseFrames
from megasam_server.flow.pairs import visible_inverse_depths
from megasam_server.flow.rigid_depth import STRIDE, RigidDepth
from megasam_server.flow.rigid_fit import inverse_depth_limits
from megasam_server.flow.sightings import FlowSighting
from megasam_server.flow.stage import FlowResult
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.point_cloud import PointCloud
from megasam_server.media.frame_store import FrameStore
from megasam_server.media.in_order import map_in_order
from megasam_server.pipeline.progress import Progress
from megasam_server.tracking.solution import TrackingSolution
from megasam_server.video_depth.depth_range import HALF_FLOAT, preview_range
from megasam_server.video_depth.fill import fill, mover_depth
from megasam_server.video_depth.fuse import StaticDepth, fuse_frame, transfer

NO_PARALLAX_DEPTH = 1.0
"""Depth of every pixel when the camera only turned, world units: there is nothing to measure it
by."""

FAR_LIMIT = 500.0
"""Sky and whatever shows no parallax lies this many typical depths away."""

POINT_WEIGHT = 800.0
"""Weight of a solved point in the fill (see ``rigid_depth``)."""

FAR_WEIGHT = 0.02
"""Pull of pixels without any measurement towards the farthest solved points."""

PREVIOUS_WEIGHT = 15.0
"""Pull towards the previous frame's depth, brought over along the flow."""

LITTLE_MEASURED = 0.25
"""Below this share of measured pixels the artist is told that depth is mostly filled in."""


@dataclass(frozen=True)
class DepthResult:
    """What stage 5 hands on; h, w as :func:`dense_size` says.

    Attributes:
        depth: z-depth, world units, float32 [N,h,w] memory map, finite, > 0 and fit for half
            floats.
        confidence: uint8 [N,h,w] memory map; 255 = measured well, 127 = about 10 %, 0 = filled in.
        near_far: nearest and farthest depth for previews, fixed over the clip.
        notices: for the artist.
    """

    depth: np.ndarray
    confidence: np.ndarray
    near_far: tuple[float, float]
    notices: list[Notice]


def _anchors(
    cameras: CameraPath,
    points: PointCloud,
    frame: int,
    nearest: float,
    unit: float,
    shape: tuple[int, int],
) -> tuple[RigidDepth, float]:
    """Solved points of a frame on the grid, and the farthest inverse depth among them (units).

    Points nearer than inverse depth ``nearest`` (a wrong track close to the epipole) are left out.
    """
    pixels, inverse_depth = visible_inverse_depths(cameras, points, frame, most=4000)
    plausible = inverse_depth <= nearest
    pixels, inverse_depth = pixels[plausible], inverse_depth[plausible]
    values, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    if not len(pixels):
        return RigidDepth(values, weights), 0.0
    column, row = np.rint(pixels / STRIDE).astype(int).T
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    values[row[inside], column[inside]] = inverse_depth[inside] * unit
    weights[row[inside], column[inside]] = POINT_WEIGHT
    return RigidDepth(values, weights), float(np.quantile(inverse_depth, 0.02) * unit)


def _complete(
    measured: RigidDepth,
    anchors: RigidDepth,
    farthest: float,
    moving: np.ndarray,
    previous: np.ndarray | None,
    previous_trust: np.ndarray | None,
    guide: np.ndarray,
) -> np.ndarray:
    """Inverse depth of every grid pixel (units) from all that is known about a frame."""
    mover, mover_weight = mover_depth(moving, measured.inverse_depth, measured.weight, previous)
    terms = [
        (measured.inverse_depth, measured.weight),
        (anchors.inverse_depth, np.where(moving, 0, anchors.weight)),
        (mover, mover_weight),
        (np.float32(farthest), np.float32(FAR_WEIGHT)),
    ]
    if previous is not None:
        terms.append((previous, np.where(moving, 0, PREVIOUS_WEIGHT * previous_trust)))
    weight = sum(w for _, w in terms).astype(np.float32)
    value = sum(w * v for v, w in terms).astype(np.float32) / weight
    return fill(value, weight, guide)


class _DepthFiles:
    """Depth and confidence of all frames, written one by one."""

    def __init__(self, folder: Path, count: int, height: int, width: int) -> None:
        self._shape = (count, height, width)
        self._depth, self._confidence = folder / "depth.f32", folder / "confidence.u8"
        for path in (self._depth, self._confidence):
            path.write_bytes(b"")

    def append(self, depth: np.ndarray, confidence: np.ndarray) -> None:
        with self._depth.open("ab") as file:
            file.write(depth.astype(np.float32).tobytes())
        with self._confidence.open("ab") as file:
            file.write(confidence.astype(np.uint8).tobytes())

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.memmap(self._depth, np.float32, mode="r", shape=self._shape),
            np.memmap(self._confidence, np.uint8, mode="r", shape=self._shape),
        )


def _without_parallax(
    files: _DepthFiles, frames: DenseFrames, report: Callable[[int], None]
) -> DepthResult:
    shape = (frames.height, frames.width)
    for frame in range(len(frames)):
        files.append(np.full(shape, NO_PARALLAX_DEPTH), np.zeros(shape))
        report(frame + 1)
    notice = Notice(
        "depth_unknown",
        "The camera only turns, so depth cannot be seen: every pixel lies at "
        f"{NO_PARALLAX_DEPTH:g} world unit.",
        "Use the camera's rotation; take distances from the set or from a shot with travel.",
    )
    near_far = (0.5 * NO_PARALLAX_DEPTH, 2 * NO_PARALLAX_DEPTH)
    return DepthResult(*files.maps(), near_far, [notice])


def solve_depth(
    frames: FrameStore,
    user_masks: FrameStore | None,
    flow: FlowResult,
    solution: TrackingSolution,
    settings: SolveSettings,
    work_dir: Path,
    progress: Progress,
) -> DepthResult:
    """Depth of every frame: triangulated flow, fused over time, filled where nothing was measured.

    Moving pixels get the depth of the ground they touch, see :func:`mover_depth`; left-out pixels
    are filled from their surroundings. With ``settings.run_cvd`` off, frames are not fused over
    time.

    Args:
        frames: N RGB frames.
        user_masks: N masks, 1 = leave out; None without masks.
        flow: stage 4's result for the same frames.
        solution: N cameras and static points, plate pixels.
        work_dir: existing folder; a folder ``video_depth`` is made in it.
    """
    folder = work_dir / "video_depth"
    folder.mkdir(parents=True, exist_ok=True)
    dense = DenseFrames(frames, user_masks)
    count, height, width = len(dense), dense.height, dense.width
    files = _DepthFiles(folder, count, height, width)

    def report(done: float) -> None:
        progress.update("video_depth", done, count)

    if solution.model == "tripod" or not np.any(flow.near_inverse_depth):
        return _without_parallax(files, dense, report)

    cameras = solution.cameras.at_resolution(width, height)
    static = StaticDepth(flow, dense)
    unit = static.unit
    grid = (-(-height // STRIDE), -(-width // STRIDE))

    def gather(frame: int) -> tuple[RigidDepth, list[FlowSighting]]:
        return fuse_frame(frame, static, flow, cameras, over_time=settings.run_cvd)

    previous, samples, measured_share = None, [], 0.0
    for frame, (measured, sightings) in enumerate(map_in_order(gather, range(count))):
        brought, trust = None, None
        back = [s for s in sightings if s.frame == frame - 1]
        if previous is not None and back and settings.run_cvd:
            brought, trust = transfer(back[0], previous, cameras, frame, unit), back[0].trust
        nearest = inverse_depth_limits(flow.near_inverse_depth[frame])[1]
        anchors, farthest = _anchors(cameras, solution.points, frame, nearest, unit, grid)
        moving = flow.motion_mask(frame)[::STRIDE, ::STRIDE] > 0
        guide = cv2.blur(dense.rgb(frame), (3, 3))[::STRIDE, ::STRIDE].astype(np.float32)
        previous = _complete(measured, anchors, farthest, moving, brought, trust, guide)
        inverse_depth = cv2.resize(previous, (width, height), interpolation=cv2.INTER_LINEAR)
        depth = unit / np.maximum(inverse_depth, 1 / FAR_LIMIT)
        depth = np.clip(depth, *HALF_FLOAT)
        known = measured.weight / (measured.weight + 100)
        files.append(depth, cv2.resize(known * 255, (width, height)))
        samples.append(depth[::16, ::16].ravel())
        measured_share += float(np.mean(measured.weight > 4)) / count
        report(frame + 1)

    notices = []
    if measured_share < LITTLE_MEASURED:
        notices.append(
            Notice(
                "depth_mostly_filled",
                f"Only {measured_share:.0%} of the pixels show enough parallax and texture to "
                "measure depth; the rest is filled in.",
                "Trust depth near solved points only.",
            )
        )
    return DepthResult(*files.maps(), preview_range(np.concatenate(samples)), notices)
