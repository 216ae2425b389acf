"""A step of an optimisation many times over, on CUDA as one graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

_BETWEEN_REPORTS = 4


def repeat(step: Callable[[], None], count: int, report: Callable[[int], None]) -> None:
    """Call ``step`` ``count`` times; ``report`` before each with the number done."""
    for done in range(count):
        report(done)
        step()


def repeat_captured(step: Callable[[], None], count: int, report: Callable[[int], None]) -> None:
    """As :func:`repeat`, but the second step is captured in a CUDA graph, which is then replayed.

    The first step runs plainly: it compiles kernels and makes what the optimiser keeps.

    Args:
        step: work on the current device alone, that waits for nothing, on tensors that stay where
            they are. Its temporary memory is taken anew for the graph, and held until the end.
        report: called before every fourth step. The device is at most eight steps behind, so that
            what ``report`` raises ends the work soon.
    """
    if count == 0:
        return
    report(0)
    step()
    if count == 1:
        return
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    reached = torch.cuda.Event()
    reached.record()
    try:
        for done in range(1, count):
            if done % _BETWEEN_REPORTS == 0:
                # Where the device was a report ago: it still has work while this thread waits.
                reached.synchronize()
                report(done)
                reached.record()
            graph.replay()
    finally:
        torch.cuda.current_stream().synchronize()
        graph.reset()
