"""Rows of the GPU benchmark: whole networks, with random weights."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from gpu_timing import Goal, Outputs, Work
from torch import Tensor, nn

# Error allowed to the float32 twin: rounding through tens of layers of random weights.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.08}
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Row:
    """A line of the table. ``build`` makes the work; its memory is free again after the row.

    ``batch`` is what ms are divided by for a goal "each"; ``what`` says what there are so many of.
    """

    name: str
    batch: int
    what: str
    dtype: torch.dtype
    build: Callable[[], Work]
    goal: Goal | None = None


@dataclass(frozen=True)
class Bench:
    """Where, and how large: ``quick`` makes everything tiny, ``compiled`` adds torch.compile rows."""

    device: torch.device
    quick: bool
    compiled: bool

    def size(self, height: int, width: int, unit: int) -> tuple[int, int]:
        """(height, width), or a small size in whole ``unit``."""
        return (unit, 2 * unit) if self.quick else (height, width)

    @property
    def batches(self) -> tuple[int, ...]:
        return (1, 2) if self.quick else (1, 4, 8)


def randomise(module: nn.Module) -> nn.Module:
    """Random weights that keep the size of signals: normal / sqrt(fan-in); norms near 1."""
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.normal_(generator=generator)
            if name.endswith(("pos_embed", "cls_token", "mask_token")):
                weight.mul_(0.1)
            elif weight.ndim >= 2:
                weight.div_(math.sqrt(weight[0].numel()))
            elif name.endswith("bias"):
                weight.mul_(0.01)
            else:
                weight.mul_(0.1).add_(1)
    return module.eval().requires_grad_(False)


@functools.lru_cache(maxsize=1)
def _master(make: Callable[..., nn.Module], *arguments) -> nn.Module:
    """The float32 twin on the CPU that the networks under test are copies of."""
    return randomise(make(*arguments))


_TWINS: dict[str, Outputs] = {}


def _twin(name: str, run: Callable[[], Outputs]) -> Outputs:
    if name not in _TWINS:
        _TWINS[name] = run()
    return _TWINS[name]


def network_work(
    bench: Bench,
    dtype: torch.dtype,
    master: nn.Module,
    call: Callable[..., Outputs],
    inputs: Callable[[int], tuple],
    twin: str | None,
    prepare: Callable[[nn.Module], None] | None = None,
    tolerance: float | None = None,
    cudnn_benchmark: bool = True,
) -> Work:
    """``call(network, *inputs(seed))`` on a copy of ``master``; inputs are made on the CPU.

    ``twin`` names the result of the first inputs, the same for all float types; None: not checked.
    ``prepare`` changes the copy, compiles it for instance.
    """
    network = copy.deepcopy(master).to(bench.device, dtype)
    if prepare:
        prepare(network)

    def moved(value):
        if not isinstance(value, Tensor):
            return value
        return value.to(bench.device, dtype if value.is_floating_point() else None)

    sets = [[moved(value) for value in inputs(seed)] for seed in range(3)]
    return Work(
        calls=[lambda values=values: call(network, *values) for values in sets],
        twin=(lambda: _twin(twin, lambda: call(master, *inputs(0)))) if twin else None,
        tolerance=tolerance or TOLERANCE[dtype],
        weight_bytes=sum(weight.nbytes for weight in network.parameters()),
        cudnn_benchmark=cudnn_benchmark,
    )


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _frames(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def depth_anything_rows(bench: Bench) -> Iterator[Row]:
    from megasam_server.models.depth_anything import DepthAnything

    height, width = bench.size(518, 924, 28)
    for encoder in ("vits", "vitl"):
        for dtype in (torch.float32, torch.bfloat16):
            for batch in bench.batches:
                best = encoder == "vitl" and batch == bench.batches[-1] and dtype in HALF
                for compiled in (False, True) if bench.compiled and best else (False,):
                    yield Row(
                        f"Depth Anything V2 {encoder} {height}x{width}" + " compiled" * compiled,
                        batch,
                        "frames",
                        dtype,
                        functools.partial(
                            lambda encoder, dtype, batch, compiled: network_work(
                                bench,
                                dtype,
                                _master(DepthAnything, encoder, 2),
                                # Checked before the last ReLU, which may leave nothing of random
                                # weights; what compile() compiles is the whole.
                                lambda net, images: (
                                    net.before_relu(images) if batch == 1 else net(images)
                                ),
                                lambda seed: (_normal(seed, batch, 3, height, width),),
                                twin=encoder if batch == 1 else None,
                                prepare=_compile_parts if compiled else None,
                            ),
                            encoder,
                            dtype,
                            batch,
                            compiled,
                        ),
                        Goal(most_ms=8) if best else None,
                    )


def _compile_parts(network: nn.Module) -> None:
    for part in network.children():
        part.compile()


def unidepth_rows(bench: Bench) -> Iterator[Row]:
    from megasam_server.models.unidepth import UniDepthV2

    height, width = bench.size(588, 784, 28)
    for dtype in (torch.float32, *HALF):
        for batch in bench.batches:
            yield Row(
                f"UniDepth V2 vitl {height}x{width}",
                batch,
                "frames",
                dtype,
                functools.partial(
                    lambda dtype, batch: network_work(
                        bench,
                        dtype,
                        _master(UniDepthV2, "vitl"),
                        lambda net, images: net(images),
                        lambda seed: (_normal(seed, batch, 3, height, width),),
                        twin="unidepth" if batch == 1 else None,
                        # The focal length passes through an exponential: float16 is the better half.
                        tolerance=2 * TOLERANCE[dtype],
                    ),
                    dtype,
                    batch,
                ),
            )

    for batch in bench.batches if bench.device.type == "cuda" else ():
        yield Row(
            f"UniDepth V2 vitl {height}x{width}, encoder float16",
            batch,
            "frames",
            torch.float32,
            functools.partial(
                lambda batch: network_work(
                    bench,
                    torch.float32,
                    _master(UniDepthV2, "vitl"),
                    lambda net, images: net(images),
                    lambda seed: (_normal(seed, batch, 3, height, width),),
                    twin="unidepth" if batch == 1 else None,
                    prepare=UniDepthV2.halve_encoder,
                    tolerance=2 * TOLERANCE[torch.float16],
                ),
                batch,
            ),
        )


def raft_rows(bench: Bench) -> Iterator[Row]:
    from megasam_server.models.raft import RaftFlow

    height, width = bench.size(384, 512, 128)
    iterations = 2 if bench.quick else 22

    def both_ways(net: RaftFlow, images: Tensor) -> tuple[Tensor, Tensor]:
        frames = net.encode(images)
        there, back = net.flow_both_ways(frames[:-1], frames[1:], iterations)
        return there.full, back.full

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for batch in bench.batches:
            best = batch == bench.batches[-1] and dtype == torch.float16
            yield Row(
                f"RAFT {iterations} iterations {height}x{width}",
                batch,
                "pairs both ways",
                dtype,
                functools.partial(
                    lambda dtype, batch: network_work(
                        bench,
                        dtype,
                        _master(RaftFlow),
                        both_ways,
                        lambda seed: (_frames(seed, batch + 1, 3, height, width),),
                        twin="raft" if batch == 1 else None,
                        # Iterations feed rounding back through the flow.
                        tolerance=5 * TOLERANCE[dtype],
                    ),
                    dtype,
                    batch,
                ),
                Goal(most_ms=15) if best else None,
            )


def encoder_rows(bench: Bench) -> Iterator[Row]:
    from megasam_server.models.droid_net import DroidNet

    height, width = bench.size(384, 512, 64)
    for name, call in (
        ("fnet", lambda net, images: net.features(images)),
        ("cnet", lambda net, images: net.context(images)),
    ):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for batch in bench.batches:
                yield Row(
                    f"DROID {name} {height}x{width}",
                    batch,
                    "frames",
                    dtype,
                    functools.partial(
                        lambda name, call, dtype, batch: network_work(
                            bench,
                            dtype,
                            _master(DroidNet),
                            call,
                            lambda seed: (_frames(seed, batch, 3, height, width),),
                            twin=name if batch == 1 else None,
                        ),
                        name,
                        call,
                        dtype,
                        batch,
                    ),
                )


def update_rows(bench: Bench) -> Iterator[Row]:
    """1 edge as in the motion filter, 48 as in the frontend, 128 as in a part of the backend."""
    from megasam_server.models.droid_net import DroidNet, EdgeSources

    height, width = bench.size(48, 64, 8)

    def inputs(edges: int, seed: int) -> tuple:
        def state(channels: int) -> Tensor:
            return _normal(seed, edges, channels, height, width)

        images = state(128).tanh(), state(128).relu(), 5 * state(196), 8 * state(4)
        images = (image.contiguous(memory_format=torch.channels_last) for image in images)
        return *images, torch.arange(edges) // 2

    def update(net: DroidNet, sources: EdgeSources, *images: Tensor) -> tuple[Tensor, ...]:
        return tuple(net.update(*images, sources, with_upmask=False)._replace(upmask=images[0]))

    def build(edges: int, dtype: torch.dtype, compiled: bool, cudnn_benchmark: bool) -> Work:
        ii = inputs(edges, 0)[-1]
        there, here = EdgeSources.of(ii.to(bench.device)), EdgeSources.of(ii)
        return network_work(
            bench,
            dtype,
            _master(DroidNet),
            lambda net, *values: update(
                net, here if values[0].device.type == "cpu" else there, *values[:-1]
            ),
            functools.partial(inputs, edges),
            twin=f"update {edges}" if edges <= 48 else None,
            prepare=(lambda net: net.update.compile()) if compiled else None,
            cudnn_benchmark=cudnn_benchmark,
        )

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for edges in (1, 6) if bench.quick else (1, 48, 128):
            judged = edges in (6, 48) and dtype in HALF
            variants = [("", False, True)]
            if judged:
                variants.append((" cuDNN heuristics", False, False))
            if judged and bench.compiled:
                variants.append((" compiled", True, True))
            for label, *how in variants:
                yield Row(
                    f"DROID update {height}x{width}{label}",
                    edges,
                    "edges",
                    dtype,
                    functools.partial(build, edges, dtype, *how),
                    Goal(least_share=0.4) if judged else None,
                )
