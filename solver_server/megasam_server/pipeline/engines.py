"""Which engine solves a job on this machine, and what the artist is told about it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Literal

from megasam_shared.errors import MegasamError
from megasam_shared.install_command import install_command
from megasam_shared.quality import Notice
from megasam_shared.settings import SolveSettings

from megasam_server.checkpoints.selection import Selection, select_checkpoints

MEGASAM_DEPENDENCIES = ("torch", "torchvision", "timm", "kornia", "safetensors")


_GET_CHECKPOINTS = (
    "`megasam checkpoints list` says where to get them, `megasam checkpoints import` puts them in"
    " place."
)


@dataclass(frozen=True)
class EngineChoice:
    """What will run.

    Attributes:
        engine: ``megasam``, ``classical``, or ``identity``: no solve, a camera that stands still
            and says so.
        source: the ``source`` of the result.
        status: one line for the artist; begins with the warning sign when it is not what was asked.
        notices: the same with what to do.
        licences: (title, licence) of every checkpoint that the solve uses.
        selection: the checkpoints of the engine ``megasam``; None for the others.
    """

    engine: Literal["megasam", "classical", "identity"]
    source: Literal["MegaSAM", "Classical", "MegaSAM_fallback"]
    status: str
    notices: list[Notice] = field(default_factory=list)
    licences: list[tuple[str, str]] = field(default_factory=list)
    selection: Selection | None = None


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


# On two cores the networks took 43 s a frame, the classical engine 1 to 3.
_NO_GPU = Notice(
    "no_gpu",
    "The checkpoints are there, but no GPU that torch can use: solved with the classical engine.",
    "To run the networks on the processor all the same, choose the engine megasam.",
)


def choose_engine(settings: SolveSettings) -> EngineChoice:
    """Check what the wanted engine needs, in the order of the design, and choose.

    Raises:
        MegasamError: ``missing_dependencies`` or ``missing_checkpoints`` when the engine
            ``megasam`` was asked for, cannot run, and the fallback policy is ``fail``.
    """
    if settings.engine == "classical":
        return EngineChoice("classical", "Classical", "Solved with the classical engine")
    lack = _lack_of_dependencies()
    if lack is None:
        selection = select_checkpoints(settings)
        if not selection.lacks and (settings.engine == "megasam" or _has_gpu()):
            return _with_networks(selection)
        if not selection.lacks:
            return EngineChoice(
                "classical", "Classical", "No GPU: solved with the classical engine", [_NO_GPU]
            )
        lack = Lack(
            "missing_checkpoints",
            "⚠ Missing checkpoints",
            " ".join(selection.lacks),
            _GET_CHECKPOINTS,
        )
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


def _has_gpu() -> bool:
    import torch  # only once it is known to be installed: everything else works without

    return torch.cuda.is_available()


def _with_networks(selection: Selection) -> EngineChoice:
    """The engine ``megasam``; checkpoints that it can do without are missed in a notice."""
    notices = []
    if selection.omissions:
        reason = " ".join(selection.omissions)
        notices = [Notice("missing_depth_checkpoints", reason, _GET_CHECKPOINTS)]
    return EngineChoice(
        "megasam",
        "MegaSAM",
        "Solved with the megasam engine",
        notices,
        selection.licences,
        selection,
    )


def _lack_of_dependencies() -> Lack | None:
    missing = missing_dependencies()
    if not missing:
        return None
    return Lack(
        "missing_dependencies",
        "⚠ Missing dependencies",
        f"The engine megasam needs {_listed(missing)}.",
        f"Install them: {install_command('networks')}",
    )


def missing_dependencies() -> list[str]:
    """Packages of the ``megasam`` engine that are not installed; nothing is imported."""
    return [name for name in MEGASAM_DEPENDENCIES if importlib.util.find_spec(name) is None]


def _listed(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
