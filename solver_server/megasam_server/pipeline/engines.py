"""Which engine solves a job on this machine, and what the artist is told about it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from megasam_shared.errors import MegasamError
from megasam_shared.install_command import install_command
from megasam_shared.quality import Notice
from megasam_shared.settings import SolveSettings
from megasam_shared.stages import STAGE_BY_KEY

from megasam_server.checkpoints.selection import Selection, any_weights, select_checkpoints

MEGASAM_DEPENDENCIES = ("torch", "torchvision", "timm", "kornia", "safetensors")

AUTO_TAKES_BUILT_IN = {"tracking": False, "flow": False}
"""Whether the engine ``auto`` takes the networks where a stage has built-in weights only.

Here and nowhere else: True for a stage as soon as the engine with these weights, on a GPU, solves
better than the classical one in "Built-in weights" of tests/benchmarks/README.md.
"""

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
        reduced_to: the lower preset that was taken for want of GPU memory, ``Fast mode``.
    """

    engine: Literal["megasam", "classical", "identity"]
    source: Literal["MegaSAM", "Classical", "MegaSAM_fallback"]
    status: str
    notices: list[Notice] = field(default_factory=list)
    licences: list[tuple[str, str]] = field(default_factory=list)
    selection: Selection | None = None
    reduced_to: str = ""

    @property
    def weights_in_words(self) -> str:
        """What the result says of weights: ``built-in weights for tracking``; empty without such."""
        stages = self.selection.built_in if self.selection else {}
        return f"built-in weights for {_listed(_titles(stages))}" if stages else ""


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
    "The weights are there, but no GPU that torch can use: solved with the classical engine.",
    "To run the networks on the processor all the same, choose the engine megasam.",
)


def choose_engine(settings: SolveSettings) -> EngineChoice:
    """Check what the wanted engine needs, in the order of the design, and choose.

    Whether an installed package really works shows only when it is imported, which takes seconds:
    the engine ``auto`` does without where it would not take the networks anyway.

    Raises:
        MegasamError: ``missing_dependencies`` or ``missing_checkpoints`` when the engine
            ``megasam`` was asked for, cannot run, and the fallback policy is ``fail``.
    """
    if settings.engine == "classical":
        return EngineChoice("classical", "Classical", "Solved with the classical engine")
    asked = settings.engine == "megasam"
    lack = _lack_of_dependencies(imported=asked or may_take_networks(settings))
    if lack is None:
        selection = select_checkpoints(settings)
        lack = _lack_of_checkpoints(selection)
    if lack is None and not asked:
        lack = _preference(selection)
    if lack is None:
        if asked or _has_gpu():
            return _with_networks(selection)
        status = "No GPU: solved with the classical engine"
        return EngineChoice("classical", "Classical", status, [_NO_GPU])
    if not asked:
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


def may_take_networks(settings: SolveSettings) -> bool:
    """Whether the engine ``auto`` may find what it needs to take the networks, seen from afar."""
    return all(AUTO_TAKES_BUILT_IN.values()) or any_weights(settings)


def _has_gpu() -> bool:
    import torch  # only once it is known to be installed: everything else works without

    return torch.cuda.is_available()


def _with_networks(selection: Selection) -> EngineChoice:
    """The engine ``megasam``; checkpoints that it can do without are missed in a notice."""
    notices = []
    if selection.built_in:
        title = _listed([selection.chosen[stage].checkpoint.title for stage in selection.built_in])
        reason = f"Solved with built-in weights ({title}). {_why_built_in(selection)}"
        hint = (
            f"Official checkpoints take their place as soon as they are there: {_GET_CHECKPOINTS}"
        )
        notices.append(Notice("built_in_weights", reason, hint))
    if selection.omissions:
        reason = " ".join(selection.omissions)
        notices.append(Notice("missing_depth_checkpoints", reason, _GET_CHECKPOINTS))
    return EngineChoice(
        "megasam",
        "MegaSAM",
        "Solved with the megasam engine",
        notices,
        selection.licences,
        selection,
    )


def _lack_of_checkpoints(selection: Selection) -> Lack | None:
    if not selection.lacks:
        return None
    reason = " ".join(selection.lacks)
    return Lack("missing_checkpoints", "⚠ Missing checkpoints", reason, _GET_CHECKPOINTS)


def _preference(selection: Selection) -> Lack | None:
    """Why the engine ``auto`` does not take networks that could run."""
    if all(AUTO_TAKES_BUILT_IN[stage] for stage in selection.built_in):
        return None
    reason = (
        f"{_why_built_in(selection)} The built-in weights could take their place, but the classical"
        " engine solves better than they do."
    )
    hint = f"{_GET_CHECKPOINTS} To solve with the built-in weights, choose the engine megasam."
    return Lack("missing_checkpoints", "⚠ Missing checkpoints", reason, hint)


def _why_built_in(selection: Selection) -> str:
    return " ".join(selection.built_in.values())


def _titles(stages: Iterable[str]) -> list[str]:
    return [STAGE_BY_KEY[stage].title.lower() for stage in stages]


def _lack_of_dependencies(imported: bool) -> Lack | None:
    """
    Args:
        imported: import the packages, too.
    """
    missing = [name for name in MEGASAM_DEPENDENCIES if not is_installed(name)]
    if missing:
        reason, verb = f"The engine megasam needs {_listed(missing)}.", "Install them"
    else:
        faults = map(fault_of, MEGASAM_DEPENDENCIES) if imported else ()
        reason, verb = " ".join(filter(None, faults)), "Install the packages again"
    if not reason:
        return None
    hint = f"{verb}: {install_command('networks')}"
    return Lack("missing_dependencies", "⚠ Missing dependencies", reason, hint)


def is_installed(package: str) -> bool:
    """A package can be found; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # of what other packages hook into the import
        return False


def fault_of(package: str) -> str:
    """Why an installed package cannot be imported, in one sentence; empty when it can, and is."""
    try:
        importlib.import_module(package)
    except Exception as error:  # a compiled package can fail in any manner
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return f"{package} is installed but cannot be imported ({said})."
    return ""


def _listed(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
