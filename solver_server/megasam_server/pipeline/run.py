"""One job from plate to result folder: which engine solves it, and what is delivered."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.quality import Notice
from megasam_shared.settings import SolveSettings

from megasam_server.export.result_folder import ResultFolder
from megasam_server.export.write_results import write_results
from megasam_server.media.frame_store import NO_SPACE
from megasam_server.media.plate import PlateInfo
from megasam_server.pipeline.classical_engine import solve_classical
from megasam_server.pipeline.engines import EngineChoice, choose_engine, may_take_networks
from megasam_server.pipeline.fallback import identity_shot
from megasam_server.pipeline.footage import Footage, plate_of, read_footage
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import Progress
from megasam_server.pipeline.solved_shot import SolvedShot
from megasam_server.pipeline.stage_cache import StageCache
from megasam_server.pipeline.stage_meter import StageMeter

NOT_SOLVED = "the engine cannot run"


def prepare() -> None:
    """Import what a solve on this process's GPU will need, while there is no job yet."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "-1" and may_take_networks(SolveSettings()):
        import megasam_server.pipeline.megasam_engine  # noqa: F401

        # Half a million objects, which each of a solve's searches for garbage would go through.
        gc.collect()
        gc.freeze()


def run_job(job: SolveJob, progress: Progress) -> dict[str, Any]:
    """Solve one job and write its result folder.

    Returns:
        a map of JSON and msgpack types: ``extrinsics`` (the camera_extrinsics contract),
        ``quality``, ``status``, ``usable``, ``warnings`` (code, message, hint), and ``timings``
        with ``seconds``, ``peak_mib`` and ``peak_vram_mib`` by stage.

    Raises:
        MegasamError: for everything that a person can mend: the plate, the masks, the settings,
            a full disk. The result folder is then not there.
    """
    choice = choose_engine(job.settings)
    meter = StageMeter()
    cache = StageCache(job.cache_dir)
    with _full_disk_explained(job):
        with meter.stage("plate"):
            plate = plate_of(job)
            if choice.engine == "megasam":
                settings, choice = _fitted(job, choice, plate.info)
                job = replace(job, settings=settings)
            footage = read_footage(plate, job, cache, progress)
        shot = _solve(job, footage, choice, cache, meter, progress)
        warnings = [*choice.notices, *footage.plate.warnings, *shot.quality.warnings]
        shot = replace(
            shot,
            quality=replace(shot.quality, warnings=warnings),
            stage_seconds=dict(meter.seconds),
            stage_peak_mib=dict(meter.peak_mib),
            stage_peak_vram_mib=dict(meter.peak_vram_mib),
            checkpoint_licences=choice.licences,
        )
        with meter.stage("conversion"):
            folder = ResultFolder(job.results_dir)
            extrinsics = write_results(folder, shot, footage.frames, job.settings, progress)
    quality = shot.quality.to_map()
    return {
        "extrinsics": extrinsics,
        "quality": quality,
        "status": shot.status,
        "usable": quality["usable"],
        "warnings": quality["warnings"],
        "timings": {
            "seconds": meter.seconds,
            "peak_mib": meter.peak_mib,
            "peak_vram_mib": meter.peak_vram_mib,
        },
    }


def _fitted(
    job: SolveJob, choice: EngineChoice, plate: PlateInfo
) -> tuple[SolveSettings, EngineChoice]:
    """What the GPU has room for; without one, what was asked for."""
    import torch  # not at the top, as below

    from megasam_server.models.device_memory import free_on
    from megasam_server.pipeline.preset_fit import GPU_TOO_SMALL, fitted_to_gpu

    if choice.selection is None or not torch.cuda.is_available():
        return job.settings, choice
    free = free_on(torch.device("cuda"))
    if job.shelf is not None:
        free += job.shelf.device_bytes  # it makes room for who needs it
    try:
        return fitted_to_gpu(job.settings, choice, plate, free)
    except MegasamError as error:
        if error.code != GPU_TOO_SMALL or job.settings.engine != "auto":
            raise
        notice = Notice(error.code, error.message, error.hint)
        status = "⚠ Reduced to the classical engine: the GPU is too small"
        return job.settings, EngineChoice("classical", "Classical", status, [notice])


def _solve(
    job: SolveJob,
    footage: Footage,
    choice: EngineChoice,
    cache: StageCache,
    meter: StageMeter,
    progress: Progress,
) -> SolvedShot:
    if choice.engine == "classical":
        return solve_classical(job, footage, choice, cache, meter, progress)
    if choice.engine == "megasam":
        # Here, because these import torch, which the other engines do without.
        from megasam_server.pipeline.megasam_engine import solve_megasam
        from megasam_server.pipeline.networks import CheckpointNetworks
        from megasam_server.pipeline.preset_fit import needs_of

        networks = CheckpointNetworks(choice.selection, job.settings.commercial_only, job.shelf)
        if networks.device.type == "cuda":
            needs = needs_of(job.settings, choice.selection, footage.plate)
            networks.room_needed = lambda stage: needs[stage].wanted if stage in needs else 0
        return solve_megasam(job, footage, choice, networks, cache, meter, progress)
    for stage in ("mono_depth", "metric_depth", "tracking", "flow", "video_depth"):
        progress.skip(stage, NOT_SOLVED)
    return identity_shot(footage.plate, footage.frames, job.settings, choice)


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
