"""The engine without networks: sparse tracks, structure from motion, dense flow, fused depth."""

from __future__ import annotations

from dataclasses import replace

from megasam_server.flow.stage import solve_flow
from megasam_server.pipeline.engines import EngineChoice
from megasam_server.pipeline.footage import Footage
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import Progress
from megasam_server.pipeline.quality import judge
from megasam_server.pipeline.solved_shot import SolvedShot
from megasam_server.pipeline.stage_cache import KEPT, StageCache, key_of
from megasam_server.pipeline.stage_meter import StageMeter
from megasam_server.tracking.solution import TrackingSolution
from megasam_server.tracking.solution_file import read_solution, write_solution
from megasam_server.tracking.solve import solve_cameras
from megasam_server.video_depth.stage import solve_depth

NO_NETWORKS = "the classical engine has no depth network"


def solve_classical(
    job: SolveJob,
    footage: Footage,
    choice: EngineChoice,
    cache: StageCache,
    meter: StageMeter,
    progress: Progress,
) -> SolvedShot:
    """Solve a decoded plate with the classical engine."""
    settings, plate = job.settings, footage.plate
    frames, masks = footage.frames, footage.user_masks
    progress.skip("mono_depth", NO_NETWORKS)
    progress.skip("metric_depth", NO_NETWORKS)
    with meter.stage("tracking"):
        solution = track(job, footage, cache, progress)
    with meter.stage("flow"):
        flow = solve_flow(
            frames, masks, solution, settings, plate.frame_numbers, job.work_dir, progress
        )
    with meter.stage("video_depth"):
        depth = solve_depth(frames, masks, flow, solution, settings, job.work_dir, progress)
    quality = judge(solution, plate, flow.moving_share)
    return SolvedShot(
        plate=plate,
        cameras=solution.cameras,
        points=solution.points,
        depth=depth.depth,
        depth_near_far=depth.near_far,
        motion_masks=flow.motion_masks,
        quality=replace(quality, warnings=[*quality.warnings, *depth.notices]),
        source=choice.source,
        solving_method=_solving_method(solution),
        status=f"{choice.status}: {solution.in_words}. Verdict: {quality.verdict}.",
    )


def track(
    job: SolveJob, footage: Footage, cache: StageCache, progress: Progress
) -> TrackingSolution:
    """Stage 3, from the stage cache where it is."""
    settings, plate = job.settings, footage.plate
    key = key_of(
        "tracking",
        footage=footage.key,
        focal_px=settings.focal_px_at(plate.width),
        optimize_focal=settings.optimize_focal,
    )
    path = job.work_dir / "tracking.npz"
    if cache.reuse("tracking", key, job.work_dir):
        progress.update("tracking", 1, 1, KEPT)
        return read_solution(path)
    solution = solve_cameras(footage.frames, footage.user_masks, plate, settings, progress)
    write_solution(path, solution)
    cache.keep("tracking", key, [path])
    return solution


def _solving_method(solution: TrackingSolution) -> str:
    focal = "known" if solution.focal_given else "estimated"
    return f"classical: {solution.model} camera, {focal} focal length"
