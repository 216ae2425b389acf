"""The engine with networks: the five solving stages of MegaSaM, each with what the one before found.

A stage whose inputs and settings have not changed comes from the stage cache. Networks are borrowed
for their stage only, and a stage for which the GPU is too small runs with less at a time.

Beside the GPU the processor follows corners through the clip, and then, while the flow is computed,
refines on them the path that the tracking stage found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from megasam_shared.quality import Notice

from megasam_server.flow.flow_store import FlowStore
from megasam_server.flow.network_flow import compute_network_flow, flow_files, open_network_flow
from megasam_server.flow.network_masks import write_motion_masks
from megasam_server.geometry.camera import Intrinsics
from megasam_server.media.preview import Previews, tinted
from megasam_server.metric_depth.stage import (
    DepthScale,
    estimate_metric_depth,
    read_scale,
    scale_of_clip,
    write_scale,
)
from megasam_server.models.device_memory import free_on
from megasam_server.mono_depth.stage import estimate_disparity, open_disparity
from megasam_server.pipeline.beside import Beside, WorkLost
from megasam_server.pipeline.dense_solution import (
    DensePath,
    DenseSolution,
    dense_solution,
    refined_solution,
)
from megasam_server.pipeline.engines import EngineChoice
from megasam_server.pipeline.fallback import USUAL_FOCAL_PER_WIDTH
from megasam_server.pipeline.footage import Footage
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.memory_plan import LEAST_CVD_RESOLUTION
from megasam_server.pipeline.networks import Networks
from megasam_server.pipeline.on_tracks import followed, refined_on_tracks
from megasam_server.pipeline.out_of_memory import (
    Reductions,
    skippable,
    with_halved_chunks,
    with_lower_resolutions,
)
from megasam_server.pipeline.progress import Progress
from megasam_server.pipeline.quality import judge
from megasam_server.pipeline.solved_shot import SolvedShot
from megasam_server.pipeline.stage_cache import KEPT, StageCache, key_of
from megasam_server.pipeline.stage_meter import StageMeter
from megasam_server.tracking.dense_slam.clip_frames import ClipFrames, tracker_intrinsics
from megasam_server.tracking.dense_slam.frame_size import MULTIPLE, FrameSize
from megasam_server.tracking.dense_slam.joined_windows import track_clip
from megasam_server.tracking.dense_slam.options import TrackerOptions
from megasam_server.tracking.dense_slam.read_ahead import ReadAhead
from megasam_server.tracking.dense_slam.result_file import read_result, write_result
from megasam_server.tracking.dense_slam.tracker import TrackingResult
from megasam_server.tracking.path_refinement import Lens
from megasam_server.tracking.solution import TrackingSolution
from megasam_server.tracking.solution_file import read_solution, write_solution
from megasam_server.tracking.tracks import Tracks
from megasam_server.video_depth.clip_depth import (
    DepthFile,
    TrackedClip,
    write_consistent_depth,
    write_prior_depth,
)

NO_CHECKPOINT = "no checkpoint"
PRESET_SKIPS = "the settings skip it"
NO_ROOM = "the GPU has not enough memory"

_STATES_SHARE = 0.25
"""Of the GPU memory that is free when the tracking begins, for the hidden states of its edges."""

_NO_GPU = Notice(
    "no_gpu",
    "There is no CUDA GPU: the networks ran on the processor, which takes tens of seconds a frame.",
    "Solve on a machine with a GPU, or with the classical engine.",
)


_NOT_REFINED = Notice(
    "not_refined",
    "The process that adjusts the camera to tracks of points has ended before its time, most likely because "
    "the machine ran out of memory. The camera is that of the networks alone.",
    "Solve again with less beside it, or with more memory.",
)

_log = logging.getLogger(__name__)


def solve_megasam(
    job: SolveJob,
    footage: Footage,
    choice: EngineChoice,
    networks: Networks,
    cache: StageCache,
    meter: StageMeter,
    progress: Progress,
) -> SolvedShot:
    """Solve a decoded plate with the engine ``megasam``.

    Raises:
        MegasamError: ``out_of_gpu_memory``, ``frame_too_narrow``, ``tracking_diverged``, or what
            loading a checkpoint raises.
    """
    reductions = Reductions(
        mode=choice.reduced_to,
        allowed=job.settings.fallback_policy != "fail",
        empty_device=networks.empty_device,
    )
    return _Solve(job, footage, networks, cache, meter, progress, reductions).shot(choice)


@dataclass
class _Solve:
    job: SolveJob
    footage: Footage
    networks: Networks
    cache: StageCache
    meter: StageMeter
    progress: Progress
    reductions: Reductions
    notices: list[Notice] = field(default_factory=list)

    def __post_init__(self) -> None:
        plate, settings = self.footage.plate, self.job.settings
        resolution = settings.tracking_resolution
        self.size = FrameSize.of_whole_plate(plate.width, plate.height, resolution).cropped
        self.count = plate.num_frames
        self.given_focal = settings.focal_px_at(plate.width)
        self.keys: dict[str, str] = {}

    def shot(self, choice: EngineChoice) -> SolvedShot:
        if self.networks.device.type == "cpu":
            self.notices.append(_NO_GPU)
        with Beside() as processor:
            tracks = processor.submit(followed, self.footage.frames, self.footage.user_masks)
            with self.meter.stage("mono_depth"):
                disparities = self._mono_depth()
            with self.meter.stage("metric_depth"):
                scale = self._depth_scale(disparities)
            frames = ClipFrames(
                self.footage.frames,
                self.footage.user_masks,
                self.size,
                disparities,
                scale.alignment,
            )
            with self.meter.stage("tracking"):
                frames = frames.reduced_to(self.job.work_dir / "tracker_frames.rgb")
                result = self._track(frames, scale)
            with self.meter.stage("flow"):
                masks = write_motion_masks(
                    result.static_probability,
                    self.size,
                    self.job.work_dir / "network_motion_masks.u8",
                )
                path = DensePath.of(result, self.footage.plate, self.size[0])
                refining = self._refining(
                    path, result, self._lens(result, scale), tracks, processor
                )
                flows = self._flow(frames, masks)
                refined = self._refined(refining)
                solution = self._solution(path, refined, result, frames, flows, scale)
        with self.meter.stage("video_depth"):
            depth = self._video_depth(frames, solution, flows)
        return self._delivered(choice, scale, result, solution, bool(refined), masks, depth)

    @property
    def _focal_is_given(self) -> bool:
        return bool(self.given_focal) and not self.job.settings.optimize_focal

    def _lens(self, result: TrackingResult, scale: DepthScale) -> Lens:
        if self._focal_is_given:
            return "known"
        if result.focal_refined:
            return "shown"
        return "guessed" if self.given_focal or scale.focal_per_width else "unknown"

    # --- the stages

    def _mono_depth(self) -> np.ndarray | None:
        """Relative disparity float32 [N,H,W] on disk; None without network or room for it."""
        network = self.networks.identity("mono_depth")
        if network is None:
            self.progress.skip("mono_depth", NO_CHECKPOINT)
            return None
        path = self.job.work_dir / "mono_disparity.f32"

        def work(chunk: int) -> None:
            with self.networks.borrow("mono_depth") as mono:
                estimate_disparity(
                    self.footage.frames,
                    self.size,
                    mono,
                    chunk,
                    self.networks.device,
                    path,
                    lambda done: self.progress.update("mono_depth", done, self.count),
                )

        key = self._key("mono_depth", footage=self.footage.key, network=network, size=self.size)
        chunk = self.job.settings.depth_chunk_size
        if not self._kept("mono_depth", key, [path]):
            if not self._if_it_fits("mono_depth", chunk, work):
                return None
            self.cache.keep("mono_depth", key, [path])
        return open_disparity(path, self.count, self.size)

    def _depth_scale(self, disparities: np.ndarray | None) -> DepthScale:
        settings = self.job.settings
        network = self.networks.identity("metric_depth")
        if not settings.run_metric_depth or network is None:
            reason = NO_CHECKPOINT if settings.run_metric_depth else PRESET_SKIPS
            self.progress.skip("metric_depth", reason)
            return scale_of_clip(disparities, None)
        known = self.given_focal / self.footage.plate.width or None
        path = self.job.work_dir / "depth_scale.json"
        found = []

        def work(chunk: int) -> None:
            with self.networks.borrow("metric_depth") as metric:
                found[:] = [
                    estimate_metric_depth(
                        self.footage.frames,
                        settings.metric_depth_every,
                        known,
                        metric,
                        chunk,
                        self.networks.device,
                        self.job.work_dir / "metric_depth.f32",
                        lambda done, total: self.progress.update("metric_depth", done, total),
                    )
                ]

        key = self._key(
            "metric_depth",
            footage=self.footage.key,
            mono_depth=None if disparities is None else self.keys["mono_depth"],
            network=network,
            every=settings.metric_depth_every,
            focal=known,
        )
        if self._kept("metric_depth", key, [path]):
            return read_scale(path)
        if not self._if_it_fits("metric_depth", settings.depth_chunk_size, work):
            return scale_of_clip(disparities, None)
        scale = scale_of_clip(disparities, found[0])
        write_scale(path, scale)
        self.cache.keep("metric_depth", key, [path])
        return scale

    def _track(self, frames: ClipFrames, scale: DepthScale) -> TrackingResult:
        plate, settings = self.footage.plate, self.job.settings
        focal = self.given_focal or plate.width * (scale.focal_per_width or USUAL_FOCAL_PER_WIDTH)
        lens = Intrinsics.centred(plate.width, plate.height, np.array([focal]))
        options = TrackerOptions(
            optimise_focal=not self._focal_is_given,
            max_keyframes=settings.max_keyframes,
            feature_dtype=self.networks.precision,
        )
        path = self.job.work_dir / "dense_track.npz"
        key = self._key(
            "tracking",
            footage=self.footage.key,
            mono_depth=self.keys.get("mono_depth") if scale.alignment else None,
            alignment=scale.alignment and vars(scale.alignment),
            focal=focal,
            optimise=options.optimise_focal,
            max_keyframes=options.max_keyframes,
            size=self.size,
            network=self.networks.identity("tracking"),
        )
        if self._kept("tracking", key, [path]):
            return read_result(path)

        def work(chunk: int) -> TrackingResult:
            with self.networks.borrow("tracking") as network:
                room = options.max_state_bytes
                if self.networks.device.type == "cuda":
                    # What does not fit there would go to the host and back in every step.
                    room = max(room, int(_STATES_SHARE * free_on(self.networks.device)))
                return track_clip(
                    ReadAhead(frames),
                    tracker_intrinsics(lens, self.size),
                    network,
                    replace(options, max_state_bytes=room).with_global_chunk(chunk),
                    self.networks.device,
                    self.networks.correlations,
                    lambda share, words: self.progress.update("tracking", share, 1, words),
                )

        result = with_halved_chunks("tracking", options.global_chunk, work, self.reductions)
        write_result(path, result)
        self.cache.keep("tracking", key, [path])
        return result

    def _refining(
        self,
        path: DensePath,
        result: TrackingResult,
        lens: Lens,
        tracks: Future[Tracks],
        processor: Beside,
    ) -> TrackingSolution | Future[TrackingSolution | None]:
        """The path as the tracks refine it: kept from an earlier solve, or on its way."""
        file = self._refined_file
        if self.cache.reuse(
            "refined", self._key("refined", tracking=self.keys["tracking"], lens=lens), file.parent
        ):
            return read_solution(file)
        return processor.submit(
            refined_on_tracks,
            path.cameras,
            path.tripod,
            result.static_probability.numpy(),
            tracks,
            self.footage.frames,
            self.footage.plate,
            lens,
        )

    def _refined(
        self, refining: TrackingSolution | Future[TrackingSolution | None]
    ) -> TrackingSolution | None:
        """The refined path; None where the tracks do not hold it."""
        if isinstance(refining, TrackingSolution):
            return refining
        if not wait([refining], timeout=0.5).done:
            self.progress.update("flow", 1, 1, "adjusting the camera to the tracks")
        try:
            solution = refining.result()
        except WorkLost as lost:
            _log.warning("the path is not refined: %s", lost)
            self.notices.append(_NOT_REFINED)
            return None
        if solution:
            write_solution(self._refined_file, solution)
            self.cache.keep("refined", self.keys["refined"], [self._refined_file])
        return solution

    @property
    def _refined_file(self) -> Path:
        return self.job.work_dir / "refined_track.npz"

    def _solution(
        self,
        path: DensePath,
        refined: TrackingSolution | None,
        result: TrackingResult,
        frames: ClipFrames,
        flows: FlowStore,
        scale: DepthScale,
    ) -> DenseSolution:
        if refined:
            return refined_solution(refined, result, scale.alignment)
        return dense_solution(
            path,
            result,
            frames,
            flows,
            scale.alignment,
            self.footage.plate,
            self._focal_is_given,
            self.networks.device,
        )

    def _flow(self, frames: ClipFrames, masks: np.ndarray) -> FlowStore:
        settings = self.job.settings
        folder = self.job.work_dir / "network_flow"
        folder.mkdir(exist_ok=True)
        stored = self._at_share(settings.cvd_resolution)
        key = self._key(
            "network_flow",
            footage=self.footage.key,
            size=self.size,
            stored=stored,
            network=self.networks.identity("flow"),
        )
        if self._kept("network_flow", key, flow_files(folder), "flow"):
            return open_network_flow(folder, stored)

        previews = Previews(self.progress, "flow", self.footage.plate.frame_numbers)

        def shown(frame: int) -> np.ndarray:
            rgb = frames.rgb(frame)
            previews.show(frame, lambda: tinted(rgb, masks[frame]))
            return rgb

        def work(chunk: int) -> FlowStore:
            with self.networks.borrow("flow") as network:
                return compute_network_flow(
                    shown,
                    self.count,
                    stored,
                    network,
                    chunk,
                    self.networks.device,
                    folder,
                    lambda done, total: self.progress.update("flow", done, total),
                )

        flows = with_halved_chunks("flow", settings.flow_chunk_size, work, self.reductions)
        self.cache.keep("network_flow", key, flow_files(folder))
        return flows

    def _video_depth(
        self, frames: ClipFrames, solution: DenseSolution, flows: FlowStore
    ) -> DepthFile:
        settings = self.job.settings
        path = self.job.work_dir / "depth.f32"
        file = DepthFile(path, self.count, self.size, solution.unit)
        if solution.depth_is_unknown:
            file.map[:] = 1.0
            self.notices.append(solution.depth_unknown_notice)
            self.progress.skip("video_depth", "without parallax and depth network there is none")
            return file
        clip = TrackedClip(
            solution.cameras_in_tracker_units,
            solution.disparities,
            solution.static,
            frames.prior,
        )

        def work(share: float) -> bool:
            self.networks.make_room("video_depth")
            write_consistent_depth(
                clip,
                flows,
                self._at_share(share),
                settings.cvd_iterations,
                self.networks.device,
                file,
                lambda done, total: self.progress.update("video_depth", done, total),
            )
            return True

        done = None
        if settings.run_cvd:
            done = with_lower_resolutions(
                "video_depth",
                settings.cvd_resolution,
                LEAST_CVD_RESOLUTION,
                work,
                self.reductions,
            )
        if not done:
            write_prior_depth(
                clip, file, lambda done: self.progress.update("video_depth", done, self.count)
            )
        return file

    # --- around them

    def _delivered(
        self,
        choice: EngineChoice,
        scale: DepthScale,
        result: TrackingResult,
        solution: DenseSolution,
        refined: bool,
        masks: np.ndarray,
        depth: DepthFile,
    ) -> SolvedShot:
        doubts = []
        looked_for = solution.tracking.focal_profile is not None
        if not self.given_focal and not result.focal_refined and not looked_for:
            guess = "a usual lens" if scale.focal_per_width is None else "the depth network's guess"
            doubts.append(
                f"The motion does not show the focal length, so {guess} was taken: "
                "enter it if you know it."
            )
        quality = judge(
            solution.tracking,
            self.footage.plate,
            float(np.mean([mask.mean() for mask in masks])),
            solution.scale_is_metric,
            doubts,
            result.joins,
        )
        told = [*quality.warnings, *scale.notices, *self.notices, *self.reductions.notices]
        with_what = f", {choice.weights_in_words}" if choice.weights_in_words else ""
        with_what += "" if scale.alignment else ", without a depth prior"
        reduced = f"{self.reductions.status}: solved with the megasam engine"
        begins = reduced if self.reductions.status else choice.status
        focal = "known" if self._focal_is_given else "estimated"
        how = ", refined on tracks of points" if refined else ""
        return SolvedShot(
            plate=self.footage.plate,
            cameras=solution.tracking.cameras,
            points=solution.tracking.points,
            depth=depth.map,
            depth_near_far=depth.near_far(),
            motion_masks=masks,
            quality=replace(quality, warnings=told),
            source=choice.source,
            solving_method=f"megasam: {solution.tracking.model} camera, {focal} focal length{with_what}{how}",
            status=f"{begins}{with_what}: {solution.tracking.in_words}. Verdict: {quality.verdict}.",
        )

    def _if_it_fits(self, stage: str, chunk: int, work: Callable[[int], None]) -> bool:
        """Run a stage that the solve can do without; False when the GPU is too small for it."""
        with skippable(stage, self.reductions):
            with_halved_chunks(stage, chunk, work, self.reductions)
            return True
        self.progress.skip(stage, NO_ROOM)
        return False

    def _key(self, stage: str, **depends_on: object) -> str:
        self.keys[stage] = key_of(stage, engine="megasam", **depends_on)
        return self.keys[stage]

    def _kept(self, entry: str, key: str, files: list[Path], stage: str | None = None) -> bool:
        """Whether the stage cache has put ``files`` in place."""
        kept = self.cache.reuse(entry, key, files[0].parent)
        if kept:
            self.progress.update(stage or entry, 1, 1, KEPT)
        return kept

    def _at_share(self, share: float) -> tuple[int, int]:
        """Width and height of a share of the tracker's resolution."""
        width, height = (max(MULTIPLE, round(side * share)) for side in self.size)
        return width, height
