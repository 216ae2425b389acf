"""How long each stage takes and how much memory the process holds meanwhile."""

from __future__ import annotations

import contextlib
import sys
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
        peak_vram_mib: most GPU memory that tensors held at a time by stage key, MiB; empty where torch
            has not used a GPU.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self.peak_vram_mib: dict[str, float] = {}
        self._process = psutil.Process()

    @contextlib.contextmanager
    def stage(self, key: str) -> Iterator[None]:
        """Measure the block as stage ``key``."""
        over = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(key, over), daemon=True)
        started = time.perf_counter()
        self._note_memory(key)
        sampler.start()
        if _gpu_is_in_use():
            sys.modules["torch"].cuda.reset_peak_memory_stats()
        try:
            yield
        finally:
            over.set()
            sampler.join()
            self._note_memory(key)
            if _gpu_is_in_use():
                peak = sys.modules["torch"].cuda.max_memory_allocated() / 2**20
                self.peak_vram_mib[key] = max(self.peak_vram_mib.get(key, 0.0), peak)
            self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - started

    def _sample(self, key: str, over: threading.Event) -> None:
        while not over.wait(SAMPLE_SECONDS):
            self._note_memory(key)

    def _note_memory(self, key: str) -> None:
        resident = self._process.memory_info().rss / 2**20
        self.peak_mib[key] = max(self.peak_mib.get(key, 0.0), resident)


def _gpu_is_in_use() -> bool:
    """Torch has a GPU in use; who has not imported torch has none."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
