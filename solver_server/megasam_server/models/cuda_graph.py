"""The same work on the same tensors many times over: on CUDA as one graph of kernels.

Small tensors keep a GPU busy for less time than it takes to start their kernels from Python. A graph
starts all of them at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from megasam_server.models.device_memory import free_on

_log = logging.getLogger(__name__)


class Replayed:
    """Work that is done again with every call.

    The first call runs plainly: libraries choose their algorithms, kernels are compiled. The second
    records a graph, which it and all later calls replay. On a CPU every call runs plainly.

    Args:
        work: reads and writes tensors that stay where they are, and never waits for the device.
        device: of the tensors.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self._work = work
        self._recordable = device.type == "cuda"
        self._called = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._recordable and torch.cuda.is_current_stream_capturing():
            self._work()  # becomes a part of the caller's graph
            return
        if self._called and self._recordable and self._graph is None:
            self._graph = _memory.record(self._work)
            self._recordable = self._graph is not None
        if self._graph is None:
            self._work()
        else:
            self._graph.replay()
        self._called = True


class _GraphMemory:
    """Temporary memory of the graphs, one after the other in the same place.

    Attributes:
        last: keeps that memory from being handed back before the next graph wants it.
    """

    def __init__(self) -> None:
        self._pool: tuple[int, int] | None = None
        self._stream: torch.cuda.Stream | None = None
        self.last: torch.cuda.CUDAGraph | None = None

    def record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        """A graph of ``work``; None where it cannot be recorded, for want of memory for instance."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        if self.last is None:
            # A pool ends with its last graph, and cannot be used again.
            self._pool = torch.cuda.graph_pool_handle()
        _make_room()
        graph, main = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(main)
        try:
            # torch.cuda.graph would collect garbage and empty the cache each time.
            with torch.cuda.stream(self._stream):
                # Other threads may use the device meanwhile.
                graph.capture_begin(self._pool, capture_error_mode="thread_local")
                try:
                    work()
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            _log.warning("kernels are started one by one, a graph cannot be recorded: %s", error)
            return None
        main.wait_stream(self._stream)
        self.last = graph
        return graph


def _make_room() -> None:
    """A graph cannot use what the allocator keeps from before: where little else is free, it goes."""
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if free_on(torch.device("cuda")) < 2 * kept:
        torch.cuda.empty_cache()


_memory = _GraphMemory()


def release_graph_memory() -> None:
    """Let the memory of graphs go that nobody replays any more."""
    if _memory.last is not None:
        torch.cuda.synchronize()
        _memory.last = None
