"""Which checkpoints a solve uses, and what is missing for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from megasam_shared.settings import SolveSettings
from megasam_shared.stages import STAGE_BY_KEY
from megasam_shared.transfer import HashCache

from megasam_server.checkpoints.locate import checkpoint_folder, find_weights, hash_cache_path
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
    """

    chosen: dict[str, CheckpointStatus] = field(default_factory=dict)
    lacks: list[str] = field(default_factory=list)
    omissions: list[str] = field(default_factory=list)

    @property
    def licences(self) -> list[tuple[str, str]]:
        """(title, licence) of every chosen checkpoint, as the result carries them."""
        checkpoints = [status.checkpoint for status in self.chosen.values()]
        return [(checkpoint.title, checkpoint.licence) for checkpoint in checkpoints]


def select_checkpoints(settings: SolveSettings) -> Selection:
    """The best usable checkpoint of each stage that the settings ask for.

    The Fast preset takes the smallest depth networks first, the others the largest. With
    ``commercial_only``, checkpoints whose licence forbids commercial use count as missing.
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
        passed_over = []
        for checkpoint in candidates:
            status = verify(checkpoint, folder, hashes)
            refusal = _refusal(status, settings.commercial_only)
            if not refusal:
                selection.chosen[stage] = status
                break
            passed_over += [refusal] if status.path else []
        else:
            names = " or ".join(checkpoint.files[0].name for checkpoint in candidates)
            passed_over.append(f"No checkpoint for {_title(stage)} in {folder}: {names}.")
        lacking = stage in REQUIRED_STAGES and stage not in selection.chosen
        (selection.lacks if lacking else selection.omissions).extend(passed_over)
    hashes.save()
    return selection


def any_weights(settings: SolveSettings) -> bool:
    """Whether there is a file of any checkpoint, whatever it holds."""
    folder = checkpoint_folder(settings.model_path)
    return any(find_weights(checkpoint, folder) for checkpoint in CHECKPOINTS)


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
