"""Stage 4: optical flow between chosen frames and the masks of what moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from megasam_shared.errors import MegasamError
from megasam_shared.settings import SolveSettings

from megasam_server.flow.dense_flow import compute_flow
from megasam_server.flow.dense_frames import DenseFrames
from megasam_server.flow.flow_store import FlowStore
from megasam_server.flow.motion_masks import MotionFinder
from megasam_server.flow.pairs import choose_pairs, visible_inverse_depths
from megasam_server.flow.rigid_depth import RigidDepthStore
from megasam_server.flow.rigid_fit import RigidFit, fit_rigid
from megasam_server.geometry.camera import CameraPath
from megasam_server.media.frame_store import FrameStore
from megasam_server.media.preview import Previews, tinted
from megasam_server.pipeline.progress import Progress
from megasam_server.tracking.solution import TrackingSolution


@dataclass(frozen=True)
class FlowResult:
    """What stage 4 hands on; h, w as :func:`dense_size` says.

    Attributes:
        flows: optical flow of the chosen pairs, both directions, on disk.
        rigid: correction of the camera's rotation and noise of each pair.
        near_inverse_depth: [N] inverse depth of the nearest solved points in each frame, world
            units; all 0 for a tripod shot.
        rigid_depth: triangulated depth of every frame as if nothing moved.
        motion_masks: uint8 [N,h,w] memory map, 1 = moving, 0 = static.
        moving_share: mean of the masks.
    """

    flows: FlowStore
    rigid: RigidFit
    near_inverse_depth: np.ndarray
    rigid_depth: RigidDepthStore
    motion_masks: np.ndarray
    moving_share: float

    def motion_mask(self, frame: int) -> np.ndarray:
        """Mask of one frame, uint8 [h,w], in memory: unlike the map's pages it goes after use."""
        shape = self.motion_masks.shape[1:]
        size = shape[0] * shape[1]
        flat = np.fromfile(self.motion_masks.filename, np.uint8, count=size, offset=frame * size)
        return flat.reshape(shape)


def _scene_range(cameras: CameraPath, solution: TrackingSolution) -> tuple[np.ndarray, np.ndarray]:
    """Middle and near inverse depth of each frame, float64 [N] both; 0 without parallax.

    Frames that see too few points take the values of their nearest neighbours that see enough.
    """
    count = len(cameras)
    values = np.full((2, count), np.nan)
    if solution.model == "perspective":
        for frame in range(count):
            inverse_depth = visible_inverse_depths(cameras, solution.points, frame)[1]
            if len(inverse_depth) >= 8:
                values[:, frame] = np.quantile(inverse_depth, (0.5, 0.98))
    known = np.flatnonzero(np.isfinite(values[0]))
    if not len(known):
        return np.zeros(count), np.zeros(count)
    frames = np.arange(count)
    return np.interp(frames, known, values[0, known]), np.interp(frames, known, values[1, known])


def _typical_depth(middle_inverse_depth: np.ndarray) -> float:
    """Median over the clip of each frame's middle depth, world units; 1 without parallax."""
    known = middle_inverse_depth[middle_inverse_depth > 0]
    return float(1 / np.median(known)) if len(known) else 1.0


def solve_flow(
    frames: FrameStore,
    user_masks: FrameStore | None,
    solution: TrackingSolution,
    settings: SolveSettings,
    frame_numbers: Sequence[int],
    work_dir: Path,
    progress: Progress,
) -> FlowResult:
    """Compute flow and motion masks of a clip whose cameras are solved.

    Args:
        frames: N RGB frames.
        user_masks: N masks, 1 = leave out of every statistic; None without masks.
        solution: N cameras and static points, plate pixels.
        settings: ``quality_preset`` picks the flow's effort.
        frame_numbers: of the plate, for whoever watches.
        work_dir: existing folder; a folder ``flow`` is made in it.

    Raises:
        MegasamError: ``frame_count_mismatch`` when frames, masks and cameras differ in number.
    """
    count = frames.num_frames
    mask_count = user_masks.num_frames if user_masks else count
    if not count == mask_count == len(solution.cameras):
        raise MegasamError(
            "frame_count_mismatch",
            f"{count} frames, {mask_count} masks and {len(solution.cameras)} cameras: "
            "they do not belong together.",
        )
    folder = work_dir / "flow"
    folder.mkdir(parents=True, exist_ok=True)
    dense = DenseFrames(frames, user_masks)
    cameras = solution.cameras.at_resolution(dense.width, dense.height)
    middle, near = _scene_range(cameras, solution)
    edges = choose_pairs(cameras, solution.points, tripod=solution.model == "tripod")

    def part(number: int):
        """Progress of the ``number``-th of five passes over the frames."""
        return lambda done: progress.update("flow", number * count + done, 5 * count)

    previews = Previews(progress, "flow", frame_numbers)

    def show(frame: int, mask: np.ndarray) -> None:
        previews.show(frame, lambda: tinted(dense.rgb(frame), mask))

    flows = compute_flow(dense, cameras, edges, middle, settings.quality_preset, folder, part(0))
    rigid = fit_rigid(flows, cameras, near, dense, part(1))
    finder = MotionFinder(dense, cameras, flows, rigid, near, _typical_depth(middle), folder)
    finder.explain(part(2))
    finder.weigh(part(3))
    masks, share = finder.masks(part(4), show)
    return FlowResult(flows, rigid, near, finder.depth, masks, share)
