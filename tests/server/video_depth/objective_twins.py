"""Consistent video depth by kernels beside plain torch: on a GPU, or in Triton's interpreter.

    TRITON_INTERPRET=1 python tests/server/video_depth/objective_twins.py
    python tests/server/video_depth/objective_twins.py cuda

Prints one line per case, the largest differences of the loss and of its two gradients relative to the
largest value; then for some iterations of Adam, on a GPU replayed from a graph, the mean differences of
the losses and of the variables relative to the mean value; on a GPU also the memory of a window. Exits
with 1 when one is above its tolerance.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from unittest import mock

import torch
from megasam_server.models.cuda_graph import release_graph_memory
from megasam_server.video_depth import adam, adam_kernel
from megasam_server.video_depth.consistency_losses import FlowPairs, flatness_weight
from megasam_server.video_depth.consistency_memory import cvd_bytes
from megasam_server.video_depth.consistency_objective import LossWeights, Objective
from megasam_server.video_depth.descent import Descent, FrameLines, FreePixels
from megasam_server.video_depth.fused_objective import BLOCK, FusedObjective
from megasam_server.video_depth.optimise import ConsistencyOptions, make_consistent
from torch import Tensor

TOLERANCE = 3e-5
# Adam divides the gradient by its size: where it is mostly rounding, variables go either way.
DESCENT_TOLERANCE = 1e-3
# A window is given that much less than what is free.
MEMORY_TOLERANCE = 1.15

BLOCKS = {"cuda": BLOCK, "cpu": 512}
"""Pixels of a program; the interpreter takes as long for many as for few."""

NONE = LossWeights(ratio=0, flow=0, scale_invariant=0, gradient=0, normal=0)


@dataclass(frozen=True)
class Problem:
    """Nothing fits anything. Attributes as the arguments of ``Objective`` and its call."""

    prior: Tensor
    disparity: Tensor
    uncertainty: Tensor
    intrinsics: Tensor
    pairs: FlowPairs

    def to(self, device: str) -> Problem:
        return Problem(*(value.to(device) for value in vars(self).values()))

    def double(self) -> Problem:
        images = (self.prior, self.disparity, self.uncertainty, self.intrinsics)
        return Problem(*(image.double() for image in images), self.pairs)


def smooth(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """[N,h,w] between 0.4 and 2, from pixel to pixel alike and never flat."""
    coarse = torch.rand(count, 1, height // 4 + 2, width // 4 + 2, generator=generator)
    enlarged = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[:, 0]
    fine = 0.05 * torch.rand(count, height, width, generator=generator)
    return 0.5 + 1.2 * enlarged.clamp(0, 1) + fine


def problem(frames: int = 3, height: int = 19, width: int = 26, seed: int = 0) -> Problem:
    """Frame 2 is no source, frame 0 is one of several pairs. Flow leaves the picture in places."""
    generator = torch.Generator().manual_seed(seed)
    steps = [(i, j) for i in range(frames) for j in (i - 1, i + 1, i + 2) if 0 <= j < frames]
    source, target = torch.tensor([pair for pair in steps if pair[0] != 2]).T
    shuffled = torch.randperm(len(source), generator=generator)
    cameras = torch.eye(4).repeat(frames, 1, 1)
    cameras[:, :3, 3] = 0.2 * torch.rand(frames, 3, generator=generator)
    lens = torch.tensor([1.1 * width, width, width / 2 - 0.7, height / 2 + 0.4])
    shape = (len(source), height, width)
    flow = 6 * torch.rand(shape[0], 2, height, width, generator=generator) - 3
    flow[0, :, :1] = 60_000.0
    flow[1, :, 1, 2] = torch.tensor([-2.0, 1.0])
    return Problem(
        smooth(frames, height, width, generator),
        smooth(frames, height, width, generator),
        0.02 + torch.rand(frames, height, width, generator=generator),
        lens.repeat(frames, 1) * torch.linspace(1, 1.05, frames)[:, None],
        FlowPairs.between(
            source[shuffled],
            target[shuffled],
            flow.half(),
            torch.rand(shape, generator=generator) > 0.3,
            cameras,
            lens,
        ),
    )


def cases() -> Iterator[tuple[str, Problem, LossWeights]]:
    usual = problem()
    for name in ("ratio", "flow"):
        yield name, usual, replace(NONE, **{name: 1.0})
    images = (usual.prior, usual.disparity, usual.uncertainty, usual.intrinsics)
    alone = Problem(*(image[:1] for image in images), usual.pairs[:0])
    for name in ("scale_invariant", "gradient", "normal"):
        yield name, alone, replace(NONE, **{name: 1.0})
    yield "all scales", problem(2, 24, 27), LossWeights()
    yield "as small as can be", problem(2, 3, 4), LossWeights()
    closed = replace(usual.pairs, mask=torch.zeros_like(usual.pairs.mask))
    yield "nothing trusted", replace(usual, pairs=closed), LossWeights()
    # Beyond the ranges: behind the camera, farther than is compared, on the bounds.
    wild = usual.disparity.clone()
    wild[0, :8] = 1.0001e-3
    wild[1, 5:9] = 1e3
    wild[2, :, 15:] *= 60
    yield "out of range", replace(usual, disparity=wild), replace(LossWeights(), normal=0.0)


def differences(device: str) -> Iterator[tuple[str, list[float]]]:
    """(case, largest differences of loss and gradients), float32 on ``device`` to plain float64."""
    for name, given, weights in cases():
        expected = _evaluated(Objective, given.double(), weights, 4_000_000)
        found = _evaluated(FusedObjective, given.to(device), weights, BLOCKS[device])
        yield name, [_relative(a, b) for a, b in zip(found, expected, strict=True)]


def adam_steps(device: str) -> Iterator[tuple[str, list[float]]]:
    """(name, largest difference of the values after two steps), by the kernel and by plain torch."""
    start, *gradients = torch.randn(3, 1500, generator=torch.Generator().manual_seed(0))
    start.clamp_(-2, 2)

    def stepped(values: Tensor) -> Tensor:
        optimiser = adam.Adam([adam.Variable(values, -1.5, 2)], 0.1)
        for gradient in gradients:
            optimiser.step([gradient.to(values.device)])
        return values.cpu()

    expected = stepped(start.clone())
    with mock.patch.object(adam, "kernels_for", lambda values: adam_kernel):
        yield "Adam", [_relative(stepped(start.to(device, copy=True)), expected)]


def descents(device: str) -> Iterator[tuple[str, list[float]]]:
    """(variables, differences of the losses and of the variables), float32, to plain torch."""
    given = problem()
    iterations = 1 if device == "cpu" else 11
    for name, model in (("lines", FrameLines), ("pixels", lambda start: FreePixels(start, True))):
        expected = _descended(Objective, model, given, iterations, 4_000_000)
        found = _descended(FusedObjective, model, given.to(device), iterations, BLOCKS[device])
        yield (
            f"{iterations} iterations, {name}",
            [
                ((ours - other).abs().mean() / other.abs().mean()).item()
                for ours, other in zip(found, expected, strict=True)
            ],
        )


def memory_share(device: str) -> Iterator[tuple[str, list[float]]]:
    """Of what is predicted for a window, how much it holds at most, and what the allocator does."""
    given = problem(30, 192, 256)
    release_graph_memory()
    torch.cuda.empty_cache()
    held, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    here = given.to(device)
    options = ConsistencyOptions(frame_iterations=6, pixel_iterations=6)
    make_consistent(here.prior, here.uncertainty, here.pairs, here.intrinsics, options)
    predicted = cvd_bytes(*given.prior.shape[:1], len(given.pairs), *given.prior.shape[1:])
    # The caller's disparity is none of the window's.
    most = torch.cuda.max_memory_allocated() - held - here.disparity.nbytes
    most_reserved = torch.cuda.max_memory_reserved() - reserved
    yield "share of the predicted memory", [most / predicted, most_reserved / predicted]


def _descended(
    kind: type, model: Callable, given: Problem, iterations: int, *more: int
) -> list[Tensor]:
    flatness = flatness_weight(given.prior)
    loss = kind(given.prior, flatness, given.intrinsics, given.pairs, LossWeights(), *more)
    variables = model(given.disparity.clone())
    uncertainty = given.uncertainty.clone()
    descent = Descent(loss, variables, uncertainty, True, 5e-3, iterations)
    losses = descent.run(lambda done: None)
    return [values.cpu() for values in (losses, variables.disparity(), uncertainty)]


def _evaluated(kind: type, given: Problem, weights: LossWeights, *more: int) -> list[Tensor]:
    flatness = flatness_weight(given.prior)
    objective = kind(given.prior, flatness, given.intrinsics, given.pairs, weights, *more)
    return [value.cpu() for value in objective(given.disparity, given.uncertainty)]


def _relative(ours: Tensor, expected: Tensor) -> float:
    assert ours.shape == expected.shape
    return ((ours - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    wrong = False
    for rows, tolerance in (
        (adam_steps, TOLERANCE),
        (differences, TOLERANCE),
        (descents, DESCENT_TOLERANCE),
        *([(memory_share, MEMORY_TOLERANCE)] if device == "cuda" else []),
    ):
        for name, found in rows(device):
            print(f"{name:32} " + " ".join(f"{value:.1e}" for value in found), flush=True)
            wrong = wrong or any(not value <= tolerance for value in found)
    sys.exit(wrong)
