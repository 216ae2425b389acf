"""Which engine solves a job on this machine, and what the artist is told about it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import platformdirs
from megasam_shared.errors import MegasamError
from megasam_shared.quality import Notice
from megasam_shared.settings import SolveSettings

MEGASAM_DEPENDENCIES = ("torch", "kornia")
CHECKPOINTS_VARIABLE = "MEGASAM_CHECKPOINTS"
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class EngineChoice:
    """What will run.

    Attributes:
        engine: ``classical``, or ``identity``: no solve, a camera that stands still and says so.
        source: the ``source`` of the result.
        status: one line for the artist; begins with the warning sign when it is not what was asked.
        notices: the same with what to do.
    """

    engine: Literal["classical", "identity"]
    source: Literal["Classical", "MegaSAM_fallback"]
    status: str
    notices: list[Notice] = field(default_factory=list)


@dataclass(frozen=True)
class Lack:
    """Why the ``megasam`` engine cannot run: error code, head of the status text, one sentence."""

    code: str
    heading: str
    reason: str


def choose_engine(settings: SolveSettings) -> EngineChoice:
    """Check what the wanted engine needs, in the order of the design, and choose.

    Raises:
        MegasamError: ``missing_dependencies`` or ``missing_checkpoints`` when the engine
            ``megasam`` was asked for, cannot run, and the fallback policy is ``fail``.
    """
    if settings.engine == "classical":
        return EngineChoice("classical", "Classical", "Solved with the classical engine")
    lack = megasam_lack()
    if settings.engine == "auto":
        status = f"{lack.heading}: solved with the classical engine"
        return EngineChoice("classical", "Classical", status, [Notice(lack.code, lack.reason)])
    hint = "Choose the engine auto or classical: it needs no checkpoints and no GPU."
    if settings.fallback_policy == "fail":
        raise MegasamError(lack.code, lack.reason, hint)
    status = f"{lack.heading}: not solved, the camera stands still"
    notices = [Notice(lack.code, lack.reason, hint)]
    return EngineChoice("identity", "MegaSAM_fallback", status, notices)


def megasam_lack() -> Lack:
    """What keeps the ``megasam`` engine from running: this version does not have its networks."""
    missing = missing_dependencies()
    if missing:
        return Lack(
            "missing_dependencies",
            "⚠ Missing dependencies",
            f"The engine megasam needs {' and '.join(missing)}, and networks that are not part of"
            " this version.",
        )
    return Lack(
        "missing_checkpoints",
        "⚠ Missing checkpoints",
        "The networks of the engine megasam are not part of this version, so it has no checkpoints"
        " to load.",
    )


def missing_dependencies() -> list[str]:
    """Packages of the ``megasam`` engine that are not installed; nothing is imported."""
    return [name for name in MEGASAM_DEPENDENCIES if importlib.util.find_spec(name) is None]


def checkpoint_folder(model_path: str = "") -> Path:
    """Where checkpoints are looked for: the setting, the environment variable, the user's data."""
    chosen = model_path or os.environ.get(CHECKPOINTS_VARIABLE)
    return (
        Path(chosen)
        if chosen
        else platformdirs.user_data_path("megasam", appauthor=False) / "checkpoints"
    )


def find_checkpoints(model_path: str = "") -> list[Path]:
    """Checkpoint files in :func:`checkpoint_folder`, sorted; empty when there is no such folder."""
    folder = checkpoint_folder(model_path)
    return sorted(path for path in folder.glob("*") if path.suffix in CHECKPOINT_SUFFIXES)
