"""Stage 6: everything that leaves the solver. A result folder that is there is complete."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from megasam_shared.errors import MegasamError
from megasam_shared.extrinsics import UNITS_LENGTH
from megasam_shared.settings import SolveSettings

from megasam_server.export.alembic_scene import write_alembic
from megasam_server.export.colmap_text import (
    write_colmap_cameras,
    write_colmap_images,
    write_colmap_points,
)
from megasam_server.export.depth_images import write_depth_image, write_depth_preview
from megasam_server.export.fbx_ascii import write_fbx_ascii
from megasam_server.export.intrinsics_text import write_intrinsics
from megasam_server.export.mask_images import write_mask_image
from megasam_server.export.maya_ascii import write_maya_ascii
from megasam_server.export.nuke_chan import write_nuke_chan
from megasam_server.export.point_cloud_ply import write_point_cloud
from megasam_server.export.poses_tum import write_poses_tum
from megasam_server.export.report import write_report
from megasam_server.export.result_folder import ResultFolder
from megasam_server.export.scene import scene_from_shot
from megasam_server.export.shot_extrinsics import shot_extrinsics
from megasam_server.export.usd_scene import write_usd
from megasam_server.media.frame_store import FrameStore
from megasam_server.pipeline.progress import Progress
from megasam_server.pipeline.solved_shot import SolvedShot

STAGE = "conversion"
# Less than any file of ours needs: a disk with less room is the reason why a write failed.
_FULL_DISK_BYTES = 1 << 20


def write_results(
    folder: ResultFolder,
    shot: SolvedShot,
    frames: FrameStore,
    settings: SolveSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Write the whole result folder of a solve.

    Files are written to ``<root>.partial``, which becomes ``<root>`` once all of them are there.
    Whatever goes wrong, cancelling included, nothing is left behind. Depth and masks are read one
    frame at a time.

    Args:
        folder: ``folder.root`` must not exist, or be empty.
        shot: what was solved; N frames.
        frames: the N frames that were solved, RGB.
        settings: of the solve.
        progress: told about stage ``conversion``.

    Returns:
        The CAMERA_EXTRINSICS map that ``camera_extrinsics.json`` holds.

    Raises:
        MegasamError: ``results_exist``, ``disk_full``, ``results_not_written`` or, when the solve
            holds numbers that are no camera, ``extrinsics_invalid``.
    """
    extrinsics = shot_extrinsics(shot, settings.coordinate_system)
    with _complete_or_absent(folder) as unfinished:
        steps = _steps(unfinished, shot, frames, settings, extrinsics)
        for done, (total, note) in enumerate(steps, start=1):
            progress.update(STAGE, done, total, note)
    return extrinsics


def _steps(
    folder: ResultFolder,
    shot: SolvedShot,
    frames: FrameStore,
    settings: SolveSettings,
    extrinsics: dict[str, Any],
) -> Iterator[tuple[int, str]]:
    """Write everything in steps of well under a second; yields (number of steps, what it was)."""
    scene = scene_from_shot(shot, film_back_mm=settings.film_back_mm)
    writers: list[tuple[str, Callable[[], None]]] = [
        ("poses", lambda: write_poses_tum(folder.poses_tum, shot.cameras)),
        ("intrinsics", lambda: write_intrinsics(folder.intrinsics, shot.cameras.intrinsics)),
        ("points", lambda: write_point_cloud(folder.points, shot.points)),
        ("Maya scene", lambda: write_maya_ascii(folder.maya_scene, scene)),
        ("USD", lambda: write_usd(folder.usd_scene, scene)),
        ("Alembic", lambda: write_alembic(folder.alembic_scene, scene)),
        ("FBX", lambda: write_fbx_ascii(folder.fbx_scene, scene)),
        ("Nuke", lambda: write_nuke_chan(folder.nuke_chan, scene)),
        ("COLMAP cameras", lambda: write_colmap_cameras(folder.colmap_cameras, shot)),
        ("COLMAP images", lambda: write_colmap_images(folder.colmap_images, shot)),
        ("COLMAP points", lambda: write_colmap_points(folder.colmap_points, shot)),
        ("report", lambda: write_report(folder.report, shot, frames, settings, extrinsics)),
        ("quality", lambda: _write_json(folder.quality, _quality(shot, settings))),
        # Last of all: libraries that do not notice a full disk have filled it by now, this notices.
        ("camera", lambda: _write_json(folder.camera_extrinsics, extrinsics)),
    ]
    total = shot.plate.num_frames + len(writers)
    for parent in (folder.depth, folder.depth_preview, folder.masks, folder.colmap):
        parent.mkdir()
    for index, number in enumerate(shot.plate.frame_numbers):
        _write_frame_images(folder, shot, index, number)
        yield total, f"frame {number}"
    for note, write in writers:
        write()
        yield total, note


def _write_frame_images(folder: ResultFolder, shot: SolvedShot, index: int, number: int) -> None:
    plate = shot.plate
    depth = np.array(shot.depth[index])
    units = UNITS_LENGTH[shot.quality.scale_is_metric]
    write_depth_image(folder.depth_image(plate.name, number), depth, f"lengths: {units}")
    preview = folder.depth_preview_image(plate.name, number)
    write_depth_preview(preview, depth, shot.depth_near_far)
    mask = np.array(shot.motion_masks[index])
    write_mask_image(folder.mask_image(plate.name, number), mask, plate.width, plate.height)


def _quality(shot: SolvedShot, settings: SolveSettings) -> dict[str, Any]:
    """The quality map with what it took to get there."""
    return shot.quality.to_map() | {
        "source": shot.source,
        "solving_method": shot.solving_method,
        "status": shot.status,
        "depth_near_far": list(shot.depth_near_far),
        "stage_seconds": shot.stage_seconds,
        "stage_peak_mib": shot.stage_peak_mib,
        "stage_peak_vram_mib": shot.stage_peak_vram_mib,
        "checkpoint_licences": [
            {"name": name, "licence": licence} for name, licence in shot.checkpoint_licences
        ],
        "settings": settings.to_map(),
    }


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    """JSON that any reader takes (no NaN), on the disk when this returns."""
    text = json.dumps(_without_nan(data), indent=1, allow_nan=False)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _without_nan(value: Any) -> Any:
    """``value`` with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _complete_or_absent(folder: ResultFolder) -> Iterator[ResultFolder]:
    """A folder to write to that takes its final name at the end, or disappears with its files."""
    unfinished = folder.unfinished
    try:
        if folder.root.exists():
            _require_empty(folder.root)
            folder.root.rmdir()
        shutil.rmtree(unfinished.root, ignore_errors=True)  # of a run that was killed
        unfinished.root.mkdir(parents=True)
        yield unfinished
        unfinished.root.rename(folder.root)
    except BaseException as error:
        failure = _explained(error, folder.root)
        shutil.rmtree(unfinished.root, ignore_errors=True)
        if failure is error:
            raise
        raise failure from error


def _require_empty(root: Path) -> None:
    if not root.is_dir() or any(root.iterdir()):
        raise MegasamError(
            "results_exist",
            f"{root} is already there, and results are never written over others.",
            "Choose another folder, or remove that one.",
        )


def _explained(error: BaseException, root: Path) -> BaseException:
    """The error for the artist: a full disk whatever met it, or other trouble with files."""
    if isinstance(error, MegasamError) or not isinstance(error, Exception):
        return error
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or _free_bytes(root) < _FULL_DISK_BYTES:
        return MegasamError(
            "disk_full",
            f"The results of this solve do not fit on the disk of {root.parent}.",
            "Make room there, or choose a folder on another disk, and solve again.",
        )
    if isinstance(error, OSError):
        return MegasamError(
            "results_not_written",
            f"The results could not be written to {root}: {error}.",
            "Check that the folder may be written to.",
        )
    return error


def _free_bytes(root: Path) -> float:
    """Room on the disk of ``root``; infinite when that cannot be asked."""
    try:
        return shutil.disk_usage(root.parent).free
    except OSError:
        return math.inf
