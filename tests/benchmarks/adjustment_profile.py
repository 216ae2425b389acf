"""One step of the adjustment of all frames, in parts; ``tracker_gpu.py --profile`` prints it.

The network works at full cost and then says that everything is where the geometry has it: places
stay as smooth as a camera makes them, whatever the random weights would have them be.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from unittest import mock

import torch
from gpu_timing import Work, measure, profile_of
from megasam_server.models.correlation import OnTheFlyCorrelation
from megasam_server.models.droid_net import DroidNet, EdgeSources
from megasam_server.models.raft import RaftFeatures, RaftFlow
from megasam_server.tracking.dense_slam import backend
from megasam_server.tracking.dense_slam.backend import GlobalRule, adjust_all
from megasam_server.tracking.dense_slam.feature_bank import FeatureBank
from megasam_server.tracking.dense_slam.frames import TrackingFrame
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.network import Correlations
from megasam_server.tracking.dense_slam.options import TrackerOptions
from network_rows import randomise
from torch import Tensor

STEPS = 5
FLOW_PAIRS = 8
_SHIFT = 0.003  # of the camera from frame to frame, in units of the mean depth


class FromVolumes(OnTheFlyCorrelation):
    """All values of the edges formed and written, as where the kernels do not run."""

    def lookup(self, coords: Tensor, ii: Tensor, jj: Tensor) -> Tensor:
        windows = coords.new_empty(*coords.shape[:3], 196, dtype=self._pyramid[0].values.dtype)
        self._write_from_volumes(coords, ii, jj, windows)
        return windows.permute(0, 3, 1, 2)


class Parts:
    """How long the device works on each part of a step."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: dict[str, list] = defaultdict(list)

    def timed(self, name: str, function: Callable) -> Callable:
        """``function``, its calls counted among the part."""

        def call(*arguments, **named):
            start = self._now()
            result = function(*arguments, **named)
            self._spans[name].append((start, self._now()))
            return result

        return call

    def ms(self) -> dict[str, float]:
        """Of each part, milliseconds."""
        if self._on_gpu:
            torch.cuda.synchronize()
            return {
                name: sum(a.elapsed_time(b) for a, b in spans)
                for name, spans in self._spans.items()
            }
        return {name: 1000 * sum(b - a for a, b in spans) for name, spans in self._spans.items()}

    def _now(self):
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class SteadyNetwork:
    """:class:`DroidNet` at work, "all is well" for an answer."""

    def __init__(self, network: DroidNet, parts: Parts | None) -> None:
        self._network = network
        self.features, self.context = network.features, network.context
        self.source_inputs = network.source_inputs
        self._update = network.update if parts is None else parts.timed("update", network.update)

    def update(self, net, inp, corr, motion, ii, with_upmask):
        said = self._update(net, inp, corr, motion, ii, with_upmask)
        return said._replace(
            delta=torch.zeros_like(said.delta),
            eta=torch.full_like(said.eta, 0.004),
            motion_weight=torch.full_like(said.motion_weight, 0.5),
        )


def walk(
    network: DroidNet, frames: list[TrackingFrame], options: TrackerOptions, device: torch.device
) -> KeyframeStore:
    """A camera that moves sideways past a bumpy wall, with the features of ``frames``."""
    height, width = (side // 8 for side in frames[0].image.shape[1:])
    count = len(frames)
    bank = FeatureBank(frames, network, device, options.feature_dtype, count, count)
    intrinsics = torch.tensor([width, width, width / 2, height / 2])
    store = KeyframeStore(height, width, intrinsics, bank, device, options)
    poses = torch.zeros(count, 7)
    poses[:, 0] = -_SHIFT * torch.arange(count)
    poses[:, 6] = 1
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disps = 1 + 0.3 * torch.sin(0.2 * x) * torch.cos(0.3 * y)
    store.extend(range(count), poses.to(device), disps.to(device))
    store.require_fmaps(range(count))
    store.require_contexts(range(count))
    return store


def _adjust(
    store: KeyframeStore,
    network: DroidNet,
    on_the_fly: type[OnTheFlyCorrelation],
    steps: int,
    parts: Parts | None = None,
) -> tuple[int, list[float]]:
    """Number of edges, and when each step was done, seconds."""

    def correlation(fmaps: Tensor) -> OnTheFlyCorrelation:
        compared = on_the_fly(fmaps)
        if parts is not None:
            compared.lookup = parts.timed("correlation", compared.lookup)
        return compared

    done = []
    before = store.estimate()
    adjust = store.bundle_adjust
    if parts is not None:
        store.bundle_adjust = parts.timed("bundle adjustment", adjust)
    found = adjust_all(
        store,
        SteadyNetwork(network, parts),
        Correlations(on_the_fly=correlation),
        GlobalRule(steps, False, store.options.global_prior_weight),
        lambda *_: done.append(time.perf_counter()),
    )
    store.bundle_adjust = adjust
    store.restore(before)
    return len(found.edges), done


@torch.inference_mode()
def print_profile(network: DroidNet, frames: list[TrackingFrame], device: torch.device) -> None:
    """The table of the parts, that of the convolutions, and the kernels that take longest."""
    dtype = next(network.parameters()).dtype
    options = TrackerOptions(feature_dtype=dtype)
    store = walk(network, frames, options, device)
    edges = _print_parts(store, network, device)
    height, width = store.disps.shape[1:]
    together = max(1, round(edges * options.global_chunk / len(frames)))
    size = height, width
    update = _update_of(network, together, size, device)
    _print_convolutions(f"an update of {together} edges", update, device)
    raft = randomise(RaftFlow()).to(device, dtype)
    flow = _flow_of(raft, pairs := 2 * FLOW_PAIRS, size, device)
    _print_convolutions(f"four iterations of {pairs} flows", flow, device)
    print(f"\n## Kernels of a plain step over {edges} edges, and what comes before\n")
    found = profile_of(lambda: _adjust(store, network, OnTheFlyCorrelation, 1), device)
    averages = found.key_averages()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(averages.table(sort_by=key, row_limit=40, max_name_column_width=100))


def _print_parts(store: KeyframeStore, network: DroidNet, device: torch.device) -> int:
    """Returns the number of edges."""
    print(
        "\n## A step in parts, ms: the first two, the median of the next, and parts of a plain one\n"
    )
    print("| variant | edges | first | second | next | parts | MiB |")
    print("|---|---|---|---|---|---|---|")
    on_gpu = device.type == "cuda"
    plain = mock.patch.object(backend, "Replayed", lambda work, device: work)
    for name, kind, how in (
        ("as it is", OnTheFlyCorrelation, nullcontext()),
        ("never recorded", OnTheFlyCorrelation, plain),
        ("correlation from volumes", FromVolumes, nullcontext()),
    ):
        _adjust(store, network, kind, 1)  # compiles the kernels
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        with how:
            edges, done = _adjust(store, network, kind, STEPS)
        times = [1000 * (b - a) for a, b in zip([start, *done], done, strict=False)]
        following = statistics.median(times[2:])
        peak = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if on_gpu else "-"
        parts = Parts(device)
        _adjust(store, network, kind, 1, parts)
        shares = parts.ms()
        shares["rest"] = following - sum(shares.values())
        told = ", ".join(f"{part} {ms:.1f}" for part, ms in shares.items())
        row = [name, str(edges), *(f"{ms:.1f}" for ms in (*times[:2], following)), told, peak]
        print("| " + " | ".join(row) + " |", flush=True)
    return edges


def _update_of(
    network: DroidNet, edges: int, size: tuple[int, int], device: torch.device
) -> Callable[[], Tensor]:
    """An update of ``edges`` edges."""
    image = _random_images(network, size, device)
    sources = EdgeSources.of(torch.arange(edges, device=device) // 16)
    inputs = network.source_inputs(image(len(sources.frames), 128))[sources.index]
    given = image(edges, 128).tanh(), inputs, image(edges, 196), image(edges, 4)
    return lambda: network.update(*given, sources, with_upmask=False).net


def _flow_of(
    raft: RaftFlow, pairs: int, size: tuple[int, int], device: torch.device
) -> Callable[[], Tensor]:
    """Four iterations of ``pairs`` flows one way; as many as are computed in a recorded graph."""
    image = _random_images(raft, size, device)
    source = RaftFeatures(image(pairs, 256), image(pairs, 128).tanh(), image(pairs, 128).relu())
    start = torch.zeros(pairs, 2, *size, device=device)
    target = image(pairs, 256)
    return lambda: raft._iterated(source, target, start, 4).full


def _random_images(
    network: torch.nn.Module, size: tuple[int, int], device: torch.device
) -> Callable[[int, int], Tensor]:
    """Makes [count, channels, h, w] of the network's type, channels last."""
    dtype = next(network.parameters()).dtype
    generator = torch.Generator(device).manual_seed(0)

    def image(count: int, channels: int) -> Tensor:
        values = torch.randn(count, *size, channels, generator=generator, device=device)
        return values.to(dtype).permute(0, 3, 1, 2)

    return image


def _print_convolutions(name: str, call: Callable[[], Tensor], device: torch.device) -> None:
    """With the algorithms that cuDNN guesses, and with those that it finds by trying."""
    print(f"\n## Convolutions of {name}\n")
    found: dict[tuple, list[str]] = defaultdict(list)
    for tried in (False, True):
        start = time.perf_counter()
        measured = measure(Work([call], None, 0, cudnn_benchmark=tried), device, 0.5)
        seconds = time.perf_counter() - start
        rate = measured.flops / measured.ms / 1e9
        kind = "tried out" if tried else "guessed"
        print(f"{kind}: {measured.ms:.2f} ms, {rate:.0f} TFLOP/s; measured in {seconds:.1f} s")
        for shape, (ms, flops) in _by_shape(profile_of(call, device), device).items():
            found[shape].append(f"{ms:.3f} | {flops / ms / 1e9:.0f}")
    torch.backends.cudnn.benchmark = False
    print("\n| in | out | size | ms guessed | TFLOP/s | ms tried out | TFLOP/s |")
    print("|---|---|---|---|---|---|---|")
    for shape, rates in found.items():
        print("| " + " | ".join([*map(str, shape), *rates]) + " |")


def _by_shape(found: torch.profiler.profile, device: torch.device) -> dict[tuple, list[float]]:
    """(channels in, channels out, size) of convolutions -> milliseconds and operations."""
    total: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in found.key_averages(group_by_input_shape=True):
        if event.key != "aten::convolution":
            continue
        (count, channels, height, width), (outputs, _, *sides) = event.input_shapes[:2]
        us = event.device_time_total if device.type == "cuda" else event.cpu_time_total
        entry = total[channels, outputs, "{}x{}".format(*sides)]
        entry[0] += us / 1000
        taps = channels * outputs * math.prod(sides)
        entry[1] += 2 * event.count * count * height * width * taps
    return total
