"""Which checkpoints a solve uses, and what is missing for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from megasam_shared.settings import SolveSettings
from megasam_shared.stages import STAGE_BY_KEY
from megasam_shared.transfer import HashCache

from megasam_server.checkpoints.locate import (
    built_in_here,
    checkpoint_folder,
    find_weights,
    hash_cache_path,
)
from megasam_server.checkpoints.registry import CHECKPOINTS
from megasam_server.checkpoints.verify import CheckpointStatus, verify

# Without these there is no solve; the depth stages can be left out.
REQUIRED_STAGES = ("tracking", "flow")


@dataclass
class Selection:
    """The checkpoints of one solve.

    Attributes:
        chosen: by stage key.
        lacks: why a required stage has none, one sentence per stage; empty when the networks of
            the solve can be loaded.
        omissions: the same for stages that can be left out, and files that were passed over.
        built_in: by key of a stage whose weights are built in: why it has no others, in sentences.
    """

    chosen: dict[str, CheckpointStatus] = field(default_factory=dict)
    lacks: list[str] = field(default_factory=list)
    omissions: list[str] = field(default_factory=list)
    built_in: dict[str, str] = field(default_factory=dict)

    @property
    def licences(self) -> list[tuple[str, str]]:
        """(title, licence) of every chosen checkpoint, as the result carries them."""
        checkpoints = [status.checkpoint for status in self.chosen.values()]
        return [(checkpoint.title, checkpoint.licence) for checkpoint in checkpoints]


def select_checkpoints(settings: SolveSettings) -> Selection:
    """The best usable checkpoint of each stage that the settings ask for.

    The Fast preset takes the smallest depth networks first, the others the largest. With
    ``commercial_only``, checkpoints whose licence forbids commercial use count as missing. Built-in
    weights come last: they are for stages that would have none.
    """
    folder = checkpoint_folder(settings.model_path)
    hashes = HashCache(hash_cache_path())
    selection = Selection()
    for stage in ("mono_depth", "metric_depth", "tracking", "flow"):
        if stage == "metric_depth" and not settings.run_metric_depth:
            continue
        candidates = [checkpoint for checkpoint in CHECKPOINTS if checkpoint.stage == stage]
        if settings.quality_preset == "fast":
            candidates.reverse()
        statuses = (verify(checkpoint, folder, hashes) for checkpoint in candidates)
        status, reasons = _first_usable(statuses, settings.commercial_only)
        if status is None:
            names = " or ".join(checkpoint.files[0].name for checkpoint in candidates)
            reasons.append(f"No checkpoint for {_title(stage)} in {folder}: {names}.")
            own = (c for c in built_in_here() if c.stage == stage)
            statuses = (verify(checkpoint, folder, hashes) for checkpoint in own)
            status, more = _first_usable(statuses, settings.commercial_only)
            reasons += more
            if status is not None:
                selection.built_in[stage] = " ".join(reasons)
                reasons = []
        if status is not None:
            selection.chosen[stage] = status
        lacking = stage in REQUIRED_STAGES and status is None
        (selection.lacks if lacking else selection.omissions).extend(reasons)
    hashes.save()
    return selection


def any_weights(settings: SolveSettings) -> bool:
    """Whether there is a file of any checkpoint, whatever it holds; built-in ones do not count."""
    folder = checkpoint_folder(settings.model_path)
    return any(find_weights(checkpoint, folder) for checkpoint in CHECKPOINTS)


def _first_usable(
    statuses: Iterable[CheckpointStatus], commercial_only: bool
) -> tuple[CheckpointStatus | None, list[str]]:
    """The first one that may be used, and why those before it that are there may not."""
    reasons = []
    for status in statuses:
        refusal = _refusal(status, commercial_only)
        if not refusal:
            return status, reasons
        reasons += [refusal] if status.path else []
    return None, reasons


def _refusal(status: CheckpointStatus, commercial_only: bool) -> str:
    """Why a checkpoint that is there is not used; empty when it is used."""
    checkpoint = status.checkpoint
    if not status.usable:
        return status.reason or "missing"
    if commercial_only and not checkpoint.commercial_use:
        return (
            f"{checkpoint.title} is not used: its licence {checkpoint.licence} forbids commercial"
            " use, and commercial_only is on."
        )
    return ""


def _title(stage: str) -> str:
    return STAGE_BY_KEY[stage].title.lower()
