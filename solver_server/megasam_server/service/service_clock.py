"""The clock by which things grow old: it counts only while a server runs, and nobody can set it."""

from __future__ import annotations

import time
from collections.abc import Callable


class ServiceClock:
    """Seconds that servers have run on one state folder.

    Somebody who sets the machine's clock, or a battery that lost it, would otherwise make every
    result a year old at once. Wall-clock time is for people to read; what expires is decided here.

    Args:
        before: seconds that earlier servers ran on this folder.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, before: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset = before - monotonic()

    def now(self) -> float:
        """From any thread."""
        return self._offset + self._monotonic()
