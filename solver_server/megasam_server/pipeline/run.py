"""One job from plate to result folder: the stages in their order, and nothing of what they do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.settings import SolveSettings

from megasam_server.export.result_folder import ResultFolder
from megasam_server.export.write_results import write_results
from megasam_server.flow.stage import solve_flow
from megasam_server.media.decode import decode, solver_size
from megasam_server.media.frame_store import NO_SPACE, FrameStore
from megasam_server.media.masks import decode_masks
from megasam_server.media.open_plate import open_plate
from megasam_server.media.plate import PlateInfo
from megasam_server.pipeline.engines import EngineChoice, choose_engine
from megasam_server.pipeline.fallback import identity_shot
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import Progress
from megasam_server.pipeline.quality import judge
from megasam_server.pipeline.solved_shot import SolvedShot
from megasam_server.pipeline.stage_cache import StageCache, identity_of, key_of
from megasam_server.pipeline.stage_meter import StageMeter
from megasam_server.tracking.solution import TrackingSolution
from megasam_server.tracking.solution_file import read_solution, write_solution
from megasam_server.tracking.solve import solve_cameras
from megasam_server.video_depth.stage import solve_depth

NO_NETWORKS = "the classical engine has no depth network"
NOT_SOLVED = "the engine cannot run"
KEPT = "kept from an earlier solve"


@dataclass(frozen=True)
class Footage:
    """The decoded plate: what it is, its frames, and the artist's masks or None. ``key`` stands for
    all of that in the keys of the stages that build on it."""

    plate: PlateInfo
    frames: FrameStore
    user_masks: FrameStore | None
    key: str


def run_job(job: SolveJob, progress: Progress) -> dict[str, Any]:
    """Solve one job and write its result folder.

    Returns:
        a map of JSON and msgpack types: ``extrinsics`` (the camera_extrinsics contract),
        ``quality``, ``status``, ``usable``, ``warnings`` (code, message, hint), and ``timings``
        with ``seconds`` and ``peak_mib`` by stage.

    Raises:
        MegasamError: for everything that a person can mend: the plate, the masks, the settings,
            a full disk. The result folder is then not there.
    """
    settings = job.settings
    choice = choose_engine(settings)
    meter = StageMeter()
    cache = StageCache(job.cache_dir)
    with _full_disk_explained(job):
        with meter.stage("plate"):
            footage = _read_plate(job, cache, progress)
        if choice.engine == "identity":
            for stage in ("mono_depth", "metric_depth", "tracking", "flow", "video_depth"):
                progress.skip(stage, NOT_SOLVED)
            shot = identity_shot(footage.plate, footage.frames, settings, choice)
        else:
            shot = _solve_classical(job, footage, choice, cache, meter, progress)
        warnings = [*choice.notices, *footage.plate.warnings, *shot.quality.warnings]
        shot = replace(
            shot,
            quality=replace(shot.quality, warnings=warnings),
            stage_seconds=dict(meter.seconds),
            stage_peak_mib=dict(meter.peak_mib),
            checkpoint_licences=choice.licences,
        )
        with meter.stage("conversion"):
            folder = ResultFolder(job.results_dir)
            extrinsics = write_results(folder, shot, footage.frames, settings, progress)
    quality = shot.quality.to_map()
    return {
        "extrinsics": extrinsics,
        "quality": quality,
        "status": shot.status,
        "usable": quality["usable"],
        "warnings": quality["warnings"],
        "timings": {"seconds": meter.seconds, "peak_mib": meter.peak_mib},
    }


def frame_store_long_side(settings: SolveSettings) -> int:
    """Longest side of the decoded frames, pixels: 640 for fast, 1024 for balanced, 1280 for best.

    ``tracking_resolution`` is the height of a 4:3 picture with as many pixels as tracking sees, so
    its width is 4/3 of it. Frames are stored at twice that, because corners are located to a
    fraction of a pixel and the error in plate pixels shrinks with the size of the stored frame;
    beyond it, time and disk grow and the sensor noise of the finer pixels eats up the gain.
    """
    return round(settings.tracking_resolution * 8 / 3)


def _read_plate(job: SolveJob, cache: StageCache, progress: Progress) -> Footage:
    settings = job.settings
    plate = open_plate(
        job.plate, settings.first_frame, settings.last_frame, max_frames=settings.max_frames
    )
    long_side = frame_store_long_side(settings)
    numbers = plate.info.frame_numbers
    key = key_of("plate", files=identity_of(job.plate), frames=numbers, long_side=long_side)
    path = job.work_dir / "frames.rgb"
    if cache.reuse("plate", key, job.work_dir):
        size = solver_size(plate.info.width, plate.info.height, long_side)
        frames = FrameStore(path, len(plate), *size, 3)
        progress.update("plate", len(plate), len(plate), KEPT)
    else:
        frames = decode(plate, path, long_side, progress)
        cache.keep("plate", key, [path])
    if job.masks is None:
        return Footage(plate.info, frames, None, key)
    path = job.work_dir / "user_masks.u8"
    key = key_of("masks", plate=key, files=identity_of(job.masks))
    if cache.reuse("masks", key, job.work_dir):
        masks = FrameStore(path, frames.num_frames, frames.width, frames.height, 1)
    else:
        masks = decode_masks(job.masks, plate.info, frames, path, progress)
        cache.keep("masks", key, [path])
    return Footage(plate.info, frames, masks, key)


def _track(
    job: SolveJob, footage: Footage, cache: StageCache, progress: Progress
) -> TrackingSolution:
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


def _solve_classical(
    job: SolveJob,
    footage: Footage,
    choice: EngineChoice,
    cache: StageCache,
    meter: StageMeter,
    progress: Progress,
) -> SolvedShot:
    settings, plate = job.settings, footage.plate
    frames, masks = footage.frames, footage.user_masks
    progress.skip("mono_depth", NO_NETWORKS)
    progress.skip("metric_depth", NO_NETWORKS)
    with meter.stage("tracking"):
        solution = _track(job, footage, cache, progress)
    with meter.stage("flow"):
        flow = solve_flow(frames, masks, solution, settings, job.work_dir, progress)
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
        status=f"{choice.status}: {_in_words(solution)}. Verdict: {quality.verdict}.",
    )


def _solving_method(solution: TrackingSolution) -> str:
    focal = "known" if solution.focal_given else "estimated"
    return f"classical: {solution.model} camera, {focal} focal length"


def _in_words(solution: TrackingSolution) -> str:
    if solution.model == "tripod":
        return "no parallax, solved as a tripod shot (rotation only)"
    return "camera path and points"


@contextlib.contextmanager
def _full_disk_explained(job: SolveJob) -> Iterator[None]:
    """Turn the system's word for a full disk, from whichever stage, into ours."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise MegasamError(
            "disk_full",
            f"The solver's disk is full ({error.filename or job.work_dir}).",
            "Free space there, or solve fewer frames or with a lower preset.",
        ) from error
