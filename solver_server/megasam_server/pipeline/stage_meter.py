"""How long each stage takes and how much memory the process holds meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psutil

SAMPLE_SECONDS = 0.1


class StageMeter:
    """Measures stages one after the other; a stage that is entered twice adds up.

    Attributes:
        seconds: wall-clock time by stage key.
        peak_mib: largest resident memory of this process by stage key, MiB, sampled ten times a
            second. Pages of memory-mapped files that the system keeps in memory count as well.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self._process = psutil.Process()

    @contextlib.contextmanager
    def stage(self, key: str) -> Iterator[None]:
        """Measure the block as stage ``key``."""
        over = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(key, over), daemon=True)
        started = time.perf_counter()
        self._note_memory(key)
        sampler.start()
        try:
            yield
        finally:
            over.set()
            sampler.join()
            self._note_memory(key)
            self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - started

    def _sample(self, key: str, over: threading.Event) -> None:
        while not over.wait(SAMPLE_SECONDS):
            self._note_memory(key)

    def _note_memory(self, key: str) -> None:
        resident = self._process.memory_info().rss / 2**20
        self.peak_mib[key] = max(self.peak_mib.get(key, 0.0), resident)
