"""How a running solve tells the world where it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What stages call while they work. Implementations must be cheap: stages call ``update`` per frame."""

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        """``done`` of ``total`` units of the stage (a key of ``megasam_shared.stages``) are finished."""

    def skip(self, stage: str, reason: str) -> None:
        """The stage does not run for this job, because of ``reason``."""

    def preview(self, stage: str, frame: int, jpeg: bytes) -> None:
        """A small picture of what the stage sees; may be dropped."""


class SilentProgress:
    """For callers that do not watch: benchmarks and tests."""

    def update(self, stage: str, done: float, total: float, note: str = "") -> None: ...

    def skip(self, stage: str, reason: str) -> None: ...

    def preview(self, stage: str, frame: int, jpeg: bytes) -> None: ...
