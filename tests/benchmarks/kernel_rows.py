"""Rows of the GPU benchmark: the kernels of the stages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from gpu_timing import Goal, Outputs, Work
from network_rows import TOLERANCE, Bench, Row
from torch import Tensor

EDGES, FRAMES = 48, 25
HALF_AND_FULL = (torch.float32, torch.bfloat16, torch.float16)


def _edges(bench: Bench) -> tuple[Tensor, Tensor]:
    """Neighbours both ways: 48 edges of 25 frames."""
    frames = torch.arange(4 if bench.quick else FRAMES)
    first, second = frames[:-1], frames[1:]
    return torch.cat([first, second]), torch.cat([second, first])


def _kernel_work(
    bench: Bench,
    prepare: Callable[[torch.device, torch.dtype, int], Callable[[], Outputs]],
    dtype: torch.dtype,
    bytes_moved: int | None = None,
    tolerance: float | None = None,
    sets: int = 2,
) -> Work:
    """``prepare(device, dtype, seed)`` makes the inputs and returns the call."""
    return Work(
        calls=[prepare(bench.device, dtype, seed) for seed in range(sets)],
        twin=prepare(torch.device("cpu"), torch.float32, 0),
        tolerance=tolerance or TOLERANCE[dtype],
        bytes_moved=bytes_moved,
    )


def correlation_rows(bench: Bench) -> Iterator[Row]:
    from megasam_server.models.correlation import CorrelationVolume, OnTheFlyCorrelation

    height, width = bench.size(48, 64, 8)
    ii, jj = _edges(bench)
    pixels, edges = height * width, len(ii)

    def fmaps(device: torch.device, dtype: torch.dtype, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        maps = torch.randn(int(ii.max()) + 1, 128, height, width, generator=generator)
        return maps.to(device, dtype, memory_format=torch.channels_last)

    def coords(device: torch.device, seed: int) -> Tensor:
        """A smooth motion, as of a camera, that leaves the image in places."""
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([x, y], -1).float()
        shift = 6 * torch.randn(edges, 1, 1, 2, generator=torch.Generator().manual_seed(seed))
        return (1.1 * grid + shift).to(device)

    def volume(device: torch.device, dtype: torch.dtype, seed: int) -> Callable[[], Outputs]:
        maps = fmaps(device, dtype, seed)
        source, target = maps[ii.to(device)], maps[jj.to(device)]
        return lambda: tuple(CorrelationVolume(source, target).levels)

    def lookup(device: torch.device, dtype: torch.dtype, seed: int) -> Callable[[], Outputs]:
        maps, at = fmaps(device, dtype, seed), coords(device, seed)
        kept = CorrelationVolume(maps[ii.to(device)], maps[jj.to(device)])
        return lambda: kept.lookup(at)

    def on_the_fly(device: torch.device, dtype: torch.dtype, seed: int) -> Callable[[], Outputs]:
        maps, at = OnTheFlyCorrelation(fmaps(device, dtype, seed)), coords(device, seed)
        here = ii.to(device), jj.to(device)
        return lambda: maps.lookup(at, *here)

    features = 2 * edges * 128 * pixels
    formed = edges * sum(level.numel() // edges for level in _levels(edges, height, width))
    windows = edges * pixels * 4
    for name, prepare, values in (
        ("correlation volume", volume, features + formed),
        # 8x8 values read and 7x7 written for each window
        ("correlation lookup", lookup, windows * (64 + 49)),
        ("correlation on the fly", on_the_fly, None),
    ):
        for dtype in HALF_AND_FULL:
            moved = None if values is None else values * dtype.itemsize
            yield Row(
                f"{name} {height}x{width}",
                edges,
                "edges",
                dtype,
                functools.partial(_kernel_work, bench, prepare, dtype, moved),
            )


def _levels(edges: int, height: int, width: int) -> list[Tensor]:
    """The volume's levels without memory, for their sizes."""
    from megasam_server.models.correlation import CorrelationVolume

    maps = torch.empty(edges, 1, height, width, device="meta")
    return CorrelationVolume(maps, maps).levels


def bundle_rows(bench: Bench) -> Iterator[Row]:
    from megasam_server.geometry import se3
    from megasam_server.geometry.dense_bundle import BundleOptions, dense_bundle_adjust
    from megasam_server.geometry.edge_topology import EdgeTopology
    from megasam_server.geometry.projective import projective_transform

    height, width = bench.size(48, 64, 8)
    ii, jj = _edges(bench)
    frames = int(ii.max()) + 1

    def prepare(device: torch.device, dtype: torch.dtype, seed: int) -> Callable[[], Outputs]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        intrinsics = torch.tensor([width, width, width / 2, height / 2])
        true = se3.exp(0.02 * torch.arange(frames)[:, None] * normal(6))
        disps = 1 + 0.3 * torch.rand(frames, height, width, generator=generator)
        target = projective_transform(true, disps, intrinsics, ii, jj)[0]
        target = target + 0.1 * normal(*target.shape)
        weight = torch.rand(target.shape, generator=generator)
        poses = se3.retract(true, 0.005 * normal(frames, 6))
        start = (disps * (1 + 0.05 * normal(*disps.shape))).clamp(min=0.1)
        eta = torch.full_like(disps, 1e-3)
        values = [poses, start, intrinsics, disps, target, weight, eta]
        values = [value.to(device) for value in values]
        edges = torch.stack([ii, jj], dim=1).numpy()
        topology = EdgeTopology.build(edges, 1, frames, height * width, device)
        options = BundleOptions(iterations=1)

        def step() -> tuple[Tensor, Tensor]:
            state = dense_bundle_adjust(*values, topology, options)
            return state.poses, state.disps

        return step

    edge_values, frame_values = 4 * len(ii), 4 * frames  # per pixel: target, weight; see above
    yield Row(
        f"bundle adjustment step {height}x{width}, {len(ii)} edges, {frames} frames",
        1,
        "step",
        torch.float32,
        functools.partial(
            _kernel_work,
            bench,
            prepare,
            torch.float32,
            4 * height * width * (edge_values + frame_values),
        ),
        Goal(most_ms=2),
    )


CVD_STEPS = (1, 2, 4, 8, 15)
"""Frames between the two of a pair, as of the flow stage."""


def _cvd_window(bench: Bench, frames: int, device: torch.device, seed: int) -> dict:
    """A window's prior, disparity, uncertainty, intrinsics and pairs ahead: smooth flow with noise,
    not trusted where it leaves the picture and in a fifth of the rest.
    """
    from megasam_server.geometry import se3
    from megasam_server.video_depth.consistency_losses import FlowPairs

    height, width = bench.size(192, 256, 32)
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    source, target = _cvd_pairs(frames)
    shape = (len(source), height, width)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y]).float()  # [2,h,w]
    shift = 6 * torch.randn(len(source), 2, 1, 1, generator=generator)
    flow = shift + 0.02 * (grid - grid.mean((1, 2), keepdim=True)) + 0.3 * uniform(2, *shape[1:])
    at = grid + flow
    inside = (at >= 0).all(1) & (at[:, 0] <= width - 1) & (at[:, 1] <= height - 1)
    cameras = se3.matrix(se3.exp(0.01 * torch.randn(frames, 6, generator=generator)))
    intrinsics = torch.tensor([width, width, width / 2, height / 2]).expand(frames, 4)
    trusted = inside & (uniform(*shape) > 0.2)
    prior = 0.5 + uniform(frames, height, width)
    return {
        "prior": prior.to(device),
        "disparity": (prior * (0.9 + 0.2 * uniform(*prior.shape))).to(device),
        "uncertainty": (0.2 + 0.8 * uniform(*prior.shape)).to(device),
        "intrinsics": intrinsics.to(device),
        "pairs": FlowPairs.between(source, target, flow.half(), trusted, cameras, intrinsics).to(
            device
        ),
    }


def _cvd_pairs(frames: int) -> Tensor:
    """Source and target [2,P] of the pairs ahead."""
    ahead = [(i, i + step) for step in CVD_STEPS for i in range(frames - step)]
    return torch.tensor(ahead).T


def consistency_rows(bench: Bench) -> Iterator[Row]:
    """The loss with its gradient, one iteration, and a window from start to end; by kernels, and the
    first two also by plain torch.
    """
    from megasam_server.models.gpu_kernels import kernels_for
    from megasam_server.video_depth.consistency_losses import flatness_weight
    from megasam_server.video_depth.consistency_objective import LossWeights, Objective
    from megasam_server.video_depth.descent import Descent, FreePixels
    from megasam_server.video_depth.optimise import ConsistencyOptions, make_consistent

    height, width = bench.size(192, 256, 32)
    kernels = kernels_for(torch.empty(0, device=bench.device)) is not None
    options = ConsistencyOptions(2, pixel_iterations=4) if bench.quick else ConsistencyOptions()

    def total_loss(window: dict, plain: bool):
        given = [window["prior"], flatness_weight(window["prior"])]
        given += [window["intrinsics"], window["pairs"], LossWeights()]
        if plain or not window["prior"].is_cuda:
            return Objective(*given, options.pixels_at_once)
        from megasam_server.video_depth.fused_objective import FusedObjective

        return FusedObjective(*given)

    def gradient(frames: int, plain: bool, device: torch.device, dtype: torch.dtype, seed: int):
        window = _cvd_window(bench, frames, device, seed)
        loss = total_loss(window, plain)
        return lambda: loss(window["disparity"], window["uncertainty"])

    def iteration(frames: int, plain: bool) -> Work:
        window = _cvd_window(bench, frames, bench.device, 0)
        descent = Descent(
            total_loss(window, plain),
            FreePixels(window["disparity"], bounded=True),
            window["uncertainty"],
            bounded=True,
            rate=options.pixel_rate,
            iterations=10_000,
        )
        # Flow and mask; prior, flatness and normals; the variables and their moments, read and written.
        moved = height * width * (window["pairs"].source.numel() * 5 + frames * 4 * (5 + 2 * 6))
        return Work([descent.step], None, 0, moved, graph=not plain)

    def whole(frames: int) -> Work:
        window = _cvd_window(bench, frames, bench.device, 0)
        given = [window[name] for name in ("prior", "uncertainty", "pairs", "intrinsics")]

        def run() -> Tensor:
            return make_consistent(*given, options).disparity

        return Work([run], None, 0, graph=False)

    few, many = (4, 6) if bench.quick else (40, 100)
    for plain in (False, True) if kernels else (True,):
        by = ", plain torch" * plain
        pairs = _cvd_pairs(few).shape[1]
        moved = height * width * (pairs * (2 * 2 + 1) + few * 4 * (4 + 3 + 2))
        yield Row(
            f"CVD loss and gradient {height}x{width}, {few} frames{by}",
            pairs,
            "pairs",
            torch.float32,
            functools.partial(
                _kernel_work,
                bench,
                functools.partial(gradient, few, plain),
                torch.float32,
                moved,
            ),
        )
    clip = f"{height}x{width}, {many} frames, {_cvd_pairs(many).shape[1]} pairs"
    for plain in (False, True) if kernels else (True,):
        yield Row(
            f"CVD iteration {clip}" + ", plain torch" * plain,
            1,
            "iteration",
            torch.float32,
            functools.partial(iteration, many, plain),
            Goal(most_ms=3),
        )
    if kernels or bench.quick:
        total = f"{options.frame_iterations} + {options.pixel_iterations} iterations"
        yield Row(
            f"CVD {total}, {clip}",
            1,
            "window",
            torch.float32,
            functools.partial(whole, many),
            Goal(most_ms=1500),
        )
