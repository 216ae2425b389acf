"""Which engine solves a job on this machine, and what the artist is told about it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Literal

from megasam_shared.errors import MegasamError
from megasam_shared.quality import Notice
from megasam_shared.settings import SolveSettings

from megasam_server.checkpoints.selection import select_checkpoints

MEGASAM_DEPENDENCIES = ("torch", "torchvision", "timm", "kornia", "safetensors")


@dataclass(frozen=True)
class EngineChoice:
    """What will run.

    Attributes:
        engine: ``classical``, or ``identity``: no solve, a camera that stands still and says so.
        source: the ``source`` of the result.
        status: one line for the artist; begins with the warning sign when it is not what was asked.
        notices: the same with what to do.
        licences: (title, licence) of every checkpoint that the solve uses.
    """

    engine: Literal["classical", "identity"]
    source: Literal["Classical", "MegaSAM_fallback"]
    status: str
    notices: list[Notice] = field(default_factory=list)
    licences: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Lack:
    """Why the ``megasam`` engine cannot run.

    Attributes:
        code: of the error. heading: of the status text. reason: what is missing.
        hint: how to get it; empty when nothing can be done.
    """

    code: str
    heading: str
    reason: str
    hint: str = ""


def choose_engine(settings: SolveSettings) -> EngineChoice:
    """Check what the wanted engine needs, in the order of the design, and choose.

    Raises:
        MegasamError: ``missing_dependencies``, ``missing_checkpoints`` or
            ``engine_not_available`` when the engine ``megasam`` was asked for, cannot run, and the
            fallback policy is ``fail``.
    """
    if settings.engine == "classical":
        return EngineChoice("classical", "Classical", "Solved with the classical engine")
    lack = megasam_lack(settings)
    if settings.engine == "auto":
        status = f"{lack.heading}: solved with the classical engine"
        notices = [Notice(lack.code, lack.reason, lack.hint)]
        return EngineChoice("classical", "Classical", status, notices)
    classical = "Choose the engine auto or classical: it needs no checkpoints and no GPU."
    hint = f"{lack.hint} {classical}".strip()
    if settings.fallback_policy == "fail":
        raise MegasamError(lack.code, lack.reason, hint)
    status = f"{lack.heading}: not solved, the camera stands still"
    notices = [Notice(lack.code, lack.reason, hint)]
    return EngineChoice("identity", "MegaSAM_fallback", status, notices)


def megasam_lack(settings: SolveSettings) -> Lack:
    """What keeps the ``megasam`` engine from running; this version does not have its pipeline.

    Checkpoints are verified, which reads them when nobody did so before.
    """
    missing = missing_dependencies()
    if missing:
        return Lack(
            "missing_dependencies",
            "⚠ Missing dependencies",
            f"The engine megasam needs {_listed(missing)}.",
            "Install them: pip install 'megasam-maya[networks]'",
        )
    selection = select_checkpoints(settings)
    if selection.lacks:
        return Lack(
            "missing_checkpoints",
            "⚠ Missing checkpoints",
            " ".join(selection.lacks),
            "`megasam checkpoints list` says where to get them, `megasam checkpoints import` puts"
            " them in place.",
        )
    return Lack(
        "engine_not_available",
        "⚠ Engine not available",
        "All checkpoints of the engine megasam are there, but its pipeline is not part of this"
        " version.",
    )


def missing_dependencies() -> list[str]:
    """Packages of the ``megasam`` engine that are not installed; nothing is imported."""
    return [name for name in MEGASAM_DEPENDENCIES if importlib.util.find_spec(name) is None]


def _listed(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
