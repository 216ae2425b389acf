"""What a stage does when the GPU has no room: the same with less at a time, and the artist is told."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from megasam_shared.errors import MegasamError
from megasam_shared.quality import Notice
from megasam_shared.stages import STAGE_BY_KEY

from megasam_server.models.cuda_graph import release_graph_memory
from megasam_server.pipeline.freed_memory import give_back_freed_memory

Result = TypeVar("Result")

OUT_OF_MEMORY = "out_of_gpu_memory"

_ALLOCATION_FAILED = ("out of memory", "ALLOC_FAILED")
"""How the libraries below torch say it, in a RuntimeError of no type of its own."""


@dataclass
class Reductions:
    """What was given up for want of memory, in the order of the stages.

    Attributes:
        steps: (stage, what was done), e.g. ("flow", "chunk 8 to 2").
        mode: what was given up before the solve began, e.g. ``Fast mode``.
        allowed: the artist lets the solve give something up; else it fails instead.
        empty_device: frees GPU memory that is kept for later, before anything is given up; False
            when there was none.
    """

    steps: dict[str, str] = field(default_factory=dict)
    mode: str = ""
    allowed: bool = True
    empty_device: Callable[[], bool] = lambda: False

    @property
    def status(self) -> str:
        """The start of the status text; empty when all went as set."""
        given_up = [f"to {self.mode}"] if self.mode else []
        given_up += [
            f"{STAGE_BY_KEY[stage].title.lower()} ({what})" for stage, what in self.steps.items()
        ]
        return f"⚠ Reduced {', '.join(given_up)}" if given_up else ""

    @property
    def notices(self) -> list[Notice]:
        """The same as one warning; none when all went as set."""
        if not self.steps:
            return []
        hint = "Free the GPU of other programs, or set the lower values to save the attempts."
        return [Notice("reduced_for_memory", f"GPU memory ran out. {self.status[2:]}.", hint)]


def with_halved_chunks(
    stage: str, chunk: int, work: Callable[[int], Result], reductions: Reductions
) -> Result:
    """``work(chunk)``, with half the chunk after each out-of-memory, down to 1.

    Raises:
        MegasamError: ``out_of_gpu_memory``, not even 1 fits. Other errors pass through.
    """
    chunks = [chunk]
    while chunks[-1] > 1:
        chunks.append(chunks[-1] // 2)
    return _first_that_fits(
        stage, chunks, work, lambda used: f"chunk {chunk} to {used}", reductions
    )


def with_lower_resolutions(
    stage: str,
    resolution: float,
    least: float,
    work: Callable[[float], Result],
    reductions: Reductions,
) -> Result | None:
    """``work(resolution)``, with half of it after each out-of-memory, down to ``least``; None when
    not even that fits."""
    resolutions = [resolution]
    while resolutions[-1] > least:
        resolutions.append(max(resolutions[-1] / 2, least))
    with skippable(stage, reductions):
        return _first_that_fits(
            stage,
            resolutions,
            work,
            lambda used: f"resolution {resolution:g} to {used:g}",
            reductions,
        )
    return None


@contextmanager
def skippable(stage: str, reductions: Reductions) -> Iterator[None]:
    """The block is a stage that the solve can do without: where it ends for want of memory, that is
    noted and the solve goes on."""
    try:
        yield
    except MegasamError as error:
        if error.code != OUT_OF_MEMORY or not reductions.allowed:
            raise
        reductions.steps[stage] = "skipped"


@contextmanager
def explained(stage: str) -> Iterator[None]:
    """Turn the GPU's word for being full into ours.

    Raises:
        MegasamError: ``out_of_gpu_memory``.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _no_room(stage) from error


def is_out_of_memory(error: BaseException) -> bool:
    """It is the GPU's memory that was too small."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error) for w in _ALLOCATION_FAILED)


def release_memory() -> None:
    """Hand unused memory back, of networks that are done with or of an attempt that failed."""
    gc.collect()
    give_back_freed_memory()
    if torch.cuda.is_available():
        release_graph_memory()
        torch.cuda.empty_cache()


def _first_that_fits(
    stage: str,
    values: Sequence,
    work: Callable[..., Result],
    in_words: Callable[..., str],
    reductions: Reductions,
) -> Result:
    for value in values if reductions.allowed else values[:1]:
        # Outside of the ``except``: there the error would keep the tensors of the attempt alive.
        done, result = _attempt(work, value)
        if not done and reductions.empty_device():
            release_memory()
            done, result = _attempt(work, value)
        if done:
            if value != values[0]:
                reductions.steps[stage] = in_words(value)
            return result
        release_memory()
    raise _no_room(stage, reductions.allowed)


def _attempt(work: Callable[..., Result], value: float) -> tuple[bool, Result | None]:
    try:
        return True, work(value)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False, None


def _no_room(stage: str, allowed: bool = True) -> MegasamError:
    tried = "not even with the smallest chunks" if allowed else "and nothing may be lowered for it"
    return MegasamError(
        OUT_OF_MEMORY,
        f"The GPU has not enough memory for {STAGE_BY_KEY[stage].title.lower()}, {tried}.",
        "Use a lower quality preset or tracking resolution, free the GPU of other programs, or"
        " solve with the classical engine.",
    )
