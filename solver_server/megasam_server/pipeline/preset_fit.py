"""The preset that fits the GPU: the one that was asked for, or the next lower one, before any work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from megasam_shared.errors import MegasamError
from megasam_shared.quality import Notice
from megasam_shared.settings import PRESETS, SolveSettings
from megasam_shared.stages import STAGE_BY_KEY

from megasam_server.checkpoints.selection import Selection, select_checkpoints
from megasam_server.media.plate import PlateInfo
from megasam_server.pipeline.engines import EngineChoice
from megasam_server.pipeline.memory_plan import StageNeed, predicted_needs

GPU_TOO_SMALL = "gpu_too_small"

# Of a lower preset, everything but this: what the artist wants solved is not for us to shorten.
_KEPT = "max_frames"


def fitted_to_gpu(
    settings: SolveSettings, choice: EngineChoice, plate: PlateInfo, free: int
) -> tuple[SolveSettings, EngineChoice]:
    """Settings and engine whose every stage is predicted to fit.

    Values that were set singly stay as they are. Where not even the lowest preset fits as a whole, it
    is taken all the same if its stages fit with less at a time.

    Args:
        choice: of the engine ``megasam``.
        free: bytes of GPU memory that this process may take.

    Raises:
        MegasamError: ``preset_does_not_fit`` when the fallback policy is ``fail``; ``gpu_too_small``.
    """
    wanted = needs = needs_of(settings, choice.selection, plate)
    if _fits(needs, free):
        return settings, choice
    if settings.fallback_policy == "fail":
        raise MegasamError(
            "preset_does_not_fit",
            f"{_in_words(settings, wanted, free)}.",
            "Free the GPU of other programs, choose a lower preset, or let the solve lower it.",
        )
    lowered, selection = settings, choice.selection
    for lowered in _lower(settings):
        selection = select_checkpoints(lowered)
        needs = needs_of(lowered, selection, plate)
        if _fits(needs, free):
            break
    else:
        _check_ladder(needs, free)
    if lowered.quality_preset == settings.quality_preset:
        return settings, choice
    title = PRESETS[lowered.quality_preset].title
    notice = Notice(
        "preset_reduced",
        f"{_in_words(settings, wanted, free)}: solved as {title}.",
        "Free the GPU of other programs, or choose the lower preset yourself.",
    )
    reduced = replace(
        choice,
        status=f"⚠ Reduced to {title} mode: solved with the megasam engine",
        notices=[*choice.notices, notice],
        licences=selection.licences,
        selection=selection,
        reduced_to=f"{title} mode",
    )
    return lowered, reduced


def needs_of(
    settings: SolveSettings, selection: Selection, plate: PlateInfo
) -> dict[str, StageNeed]:
    """:func:`predicted_needs` of a plate with the chosen checkpoints."""
    networks = {stage: status.checkpoint.network for stage, status in selection.chosen.items()}
    return predicted_needs(settings, plate.width, plate.height, plate.num_frames, networks)


def _lower(settings: SolveSettings) -> Iterator[SolveSettings]:
    """The settings under each lower preset, from the next one down."""
    names = list(PRESETS)
    own = PRESETS[settings.quality_preset].values
    for name in reversed(names[: names.index(settings.quality_preset)]):
        values = {
            key: value
            for key, value in PRESETS[name].values.items()
            if key != _KEPT and getattr(settings, key) == own[key]
        }
        yield replace(settings, quality_preset=name, **values)


def _fits(needs: dict[str, StageNeed], free: int) -> bool:
    return all(need.wanted <= free for need in needs.values())


def _check_ladder(needs: dict[str, StageNeed], free: int) -> None:
    for stage, need in needs.items():
        if need.least > free and not need.optional:
            raise MegasamError(
                GPU_TOO_SMALL,
                f"{_title(stage)} needs {_gb(need.least)} of GPU memory even with as little at a time"
                f" as can be, and {_gb(free)} are free.",
                "Free the GPU of other programs, lower the tracking resolution, or solve with the"
                " classical engine.",
            )


def _in_words(settings: SolveSettings, needs: dict[str, StageNeed], free: int) -> str:
    stage, need = max(needs.items(), key=lambda item: item[1].wanted)
    preset = PRESETS[settings.quality_preset].title
    return (
        f"With these settings ({preset}) {_title(stage).lower()} needs {_gb(need.wanted)} of GPU"
        f" memory, and {_gb(free)} are free"
    )


def _title(stage: str) -> str:
    return STAGE_BY_KEY[stage].title


def _gb(size: int) -> str:
    return f"{size / 2**30:.1f} GB"
