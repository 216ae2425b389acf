"""Time, memory, arithmetic and error of one piece of work, on a GPU or, to try it out, a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

Outputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Goal:
    """``least_share`` of the matrix ceiling, or ``most_ms`` for each of the row's items."""

    most_ms: float | None = None
    least_share: float | None = None

    def __str__(self) -> str:
        if self.most_ms is not None:
            return f"<= {self.most_ms:g} ms each"
        return f">= {100 * self.least_share:g} %"


@dataclass(frozen=True)
class Work:
    """What a row does.

    Attributes:
        calls: the same work on different inputs, taken in turn, so that no call finds its inputs in
            the cache.
        twin: the first of ``calls`` in float32 on the CPU, by plain torch; None: not checked here.
        tolerance: for the norm of the difference to the twin, relative to the twin's norm.
        bytes_moved: inputs and outputs, each once; None: not limited by memory.
        weight_bytes: of the network.
        cudnn_benchmark: let cuDNN try its algorithms, else trust its heuristics.
        graph: try to capture the calls; False where they wait for the device or capture themselves.
    """

    calls: list[Callable[[], Outputs]]
    twin: Callable[[], Outputs] | None
    tolerance: float
    bytes_moved: int | None = None
    weight_bytes: int = 0
    cudnn_benchmark: bool = True
    graph: bool = True


@dataclass(frozen=True)
class Measured:
    """ms: median of CUDA graph replays, or of plain calls where ``graph`` is False or on a CPU;
    eager_ms: of plain calls; peak_mib: weights and everything allocated during a call, None on a
    CPU; flops: of matrix products, convolutions and attention; error: to the twin, None unchecked.
    """

    ms: float
    eager_ms: float
    graph: bool
    peak_mib: float | None
    flops: int
    error: float | None


def measure(work: Work, device: torch.device, seconds: float) -> Measured:
    """Check ``work`` against its twin, then time it for about ``seconds``, twice on a GPU."""
    torch.backends.cudnn.benchmark = work.cudnn_benchmark
    error = None if work.twin is None else _error(work.calls[0](), work.twin())
    with FlopCounterMode(display=False) as counter:
        work.calls[0]()
    peak = _peak_mib(work, device)
    eager_ms = _median_ms(work.calls, device, seconds)
    replays = _graphs(work.calls) if work.graph and device.type == "cuda" else None
    ms = eager_ms if replays is None else _median_ms(replays, device, seconds)
    return Measured(ms, eager_ms, replays is not None, peak, counter.get_total_flops(), error)


def _tensors(outputs: Outputs) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _error(outputs: Outputs, expected: Outputs) -> float:
    """The largest, over the tensors, of |ours - expected| / |expected|; NaN if anything is NaN."""
    pairs = zip(_tensors(outputs), _tensors(expected), strict=True)
    errors = [((a.float().cpu() - b).norm() / b.norm()).item() for a, b in pairs]
    return max(errors) if all(error == error for error in errors) else float("nan")


def _peak_mib(work: Work, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work.calls[-1]()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before + work.weight_bytes) / 2**20


def _median_ms(calls: list[Callable], device: torch.device, seconds: float) -> float:
    for call in calls:
        call()
    start = time.perf_counter()
    _wait(device)
    calls[0]()
    _wait(device)
    count = round(seconds / max(time.perf_counter() - start, 1e-5))
    count = min(max(count, 3), 200) if device.type == "cuda" else min(max(count, 1), 5)
    if device.type != "cuda":
        return statistics.median(_cpu_ms(calls[k % len(calls)]) for k in range(count))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for k, (begin, end) in enumerate(events):
        begin.record()
        calls[k % len(calls)]()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _cpu_ms(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _graphs(calls: list[Callable]) -> list[Callable] | None:
    """A CUDA graph of each call, in one memory pool; None where one waits for the device."""
    graphs: list[torch.cuda.CUDAGraph] = []
    try:
        # The outer context: a capture that fails does not give the stream back.
        with torch.cuda.stream(torch.cuda.current_stream()):
            for call in calls:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=graphs[0].pool() if graphs else None):
                    call()
                graphs.append(graph)
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return [graph.replay for graph in graphs]


def ceilings(device: torch.device, quick: bool) -> dict[str, float]:
    """What this machine reaches: ``bfloat16``, ``float16`` and ``float32`` matrix products (no
    TF32) in FLOP/s, and ``copy`` of device memory in bytes/s, read and written.
    """
    size = 256 if quick else 8192
    found = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        pairs = [torch.randn(2, size, size, device=device).to(dtype) for _ in range(3)]
        ms = _median_ms([lambda p=p: p[0] @ p[1] for p in pairs], device, 0.3)
        found[str(dtype).removeprefix("torch.")] = 2 * size**3 / ms * 1000
        del pairs
    source = torch.randn((2**20 if quick else 2**30) // 4, device=device)
    target = torch.empty_like(source)
    ms = _median_ms([lambda: target.copy_(source)], device, 0.3)
    found["copy"] = 2 * source.nbytes / ms * 1000
    return found


def profile_of(call: Callable[[], object], device: torch.device) -> torch.profiler.profile:
    """What one plain call does, with the shapes of its inputs."""
    kinds = torch.profiler.ProfilerActivity
    on_gpu = device.type == "cuda"
    activities = [kinds.CPU] + [kinds.CUDA] * on_gpu
    with torch.profiler.profile(activities=activities, record_shapes=True) as found:
        call()
        _wait(device)
    return found


def profile(work: Work, device: torch.device, rows: int = 25) -> str:
    """The kernels that take longest in one plain call, as a table."""
    for call in work.calls:
        call()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    averages = profile_of(work.calls[0], device).key_averages()
    return averages.table(sort_by=key, row_limit=rows, max_name_column_width=90)
