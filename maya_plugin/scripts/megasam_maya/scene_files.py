"""Scene files of a solve, copied to where other programs look for them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megasam_shared.errors import MegasamError

from megasam_maya.refusal import refuse_unusable
from megasam_maya.solve_quality import read_quality


@dataclass(frozen=True)
class SceneFile:
    """A file of a result folder that another program opens."""

    name: str
    label: str


SCENE_FILES = (
    SceneFile("camera.ma", "Maya"),
    SceneFile("camera.usda", "USD"),
    SceneFile("camera.abc", "Alembic"),
    SceneFile("camera.fbx", "FBX"),
    SceneFile("camera.chan", "Nuke chan"),
    SceneFile("camera_extrinsics.json", "JSON"),
)


def targets_of(files: Sequence[SceneFile], folder: Path, name: str) -> list[Path]:
    """What :func:`copy_scene_files` writes: ``sh010.ma``, ``sh010.usda`` ..."""
    return [folder / f"{name}{Path(file.name).suffix}" for file in files]


def copy_scene_files(
    files: Sequence[SceneFile], result: Path, folder: Path, name: str, insist: bool = False
) -> list[Path]:
    """Copy scene files from a result folder; files that are there are replaced.

    Args:
        insist: also those of a solve that is not usable.

    Raises:
        MegasamError: ``shot_not_usable``, ``scene_file_missing``, ``output_not_writable``, or
            ``results_unreadable``.
    """
    quality = read_quality(result)
    refuse_unusable(quality.usable, quality.status, quality.reasons, insist)
    targets = targets_of(files, folder, name)
    for file in files:
        if not (result / file.name).is_file():
            raise MegasamError(
                "scene_file_missing",
                f"The solve in {result} has no {file.name}.",
                "Fetch the job again, or leave that format out.",
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, target in zip(files, targets, strict=True):
            shutil.copyfile(result / file.name, target)
    except OSError as error:
        raise MegasamError(
            "output_not_writable",
            f"Scene files cannot be written to {folder}: {error.strerror or error}.",
            "Check free space and permissions, or choose another folder.",
        ) from None
    return targets
