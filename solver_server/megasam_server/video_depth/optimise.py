"""Consistent video depth: disparities that agree along the flow (MegaSaM, arXiv:2412.04463, 3.3).

Two runs of Adam, first on a scale and a shift of each frame, then on every pixel. Poses and intrinsics
stay as they were tracked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from megasam_server.models.gpu_kernels import kernels_for
from megasam_server.video_depth.consistency_losses import LEAST, MOST, FlowPairs, flatness_weight
from megasam_server.video_depth.consistency_objective import LossWeights, Objective
from megasam_server.video_depth.descent import (
    Descent,
    FrameLines,
    FreePixels,
    TotalLoss,
)


@dataclass(frozen=True)
class ConsistencyOptions:
    """How to optimise; the numbers of the MegaSaM scripts.

    Attributes:
        frame_iterations, frame_rate, frame_weights: iterations, learning rate and weights while each
            frame has one scale and one shift.
        pixel_iterations, pixel_rate, pixel_weights: the same while every pixel is free.
        pixels_at_once: of pairs, and of frames, that are differentiated together by plain torch;
            each takes about 250 bytes while it is worked on.
        reference_quirks: let variables leave the range in which the losses feel them, as the published
            script does. Such a pixel has no gradient any more and keeps its last value. By plain torch.
    """

    frame_iterations: int = 100
    frame_rate: float = 1e-2
    frame_weights: LossWeights = field(default_factory=lambda: LossWeights(normal=4.0))
    pixel_iterations: int = 400
    pixel_rate: float = 5e-3
    pixel_weights: LossWeights = field(default_factory=LossWeights)
    pixels_at_once: int = 2_000_000
    reference_quirks: bool = False


@dataclass(frozen=True)
class ConsistentDisparity:
    """Result of the optimisation, float32, on the device of its input.

    Attributes:
        disparity: [N,h,w].
        uncertainty: [N,h,w]; small where a pixel's errors were forgiven (moving, or wrong flow).
        log_scale, shift: [N], of the first run: disparity = exp(log_scale) prior + shift.
        frame_losses, pixel_losses: total loss before each iteration of the two runs.
    """

    disparity: Tensor
    uncertainty: Tensor
    log_scale: Tensor
    shift: Tensor
    frame_losses: Tensor
    pixel_losses: Tensor


def uncertainty_from_motion(static_probability: Tensor, height: int, width: int) -> Tensor:
    """Where the optimisation's uncertainty starts: [N,h/8,w/8] of the tracker -> [N,height,width].

    Args:
        static_probability: 1 = static.
    """
    enlarged = F.interpolate(static_probability[:, None].float(), (height, width), mode="bilinear")
    return enlarged[:, 0].clamp(1e-3, 0.5)


def make_consistent(
    prior: Tensor,
    uncertainty: Tensor,
    pairs: FlowPairs,
    intrinsics: Tensor,
    options: ConsistencyOptions | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> ConsistentDisparity:
    """The disparities of all frames, made to agree along the flow.

    Args:
        prior: float32 [N,h,w], aligned disparity; the result is held near it.
        uncertainty: [N,h,w], where it starts, see :func:`uncertainty_from_motion`.
        pairs: flow between the frames, on the device of ``prior``.
        intrinsics: [N,4] or [4], (fx, fy, cx, cy) of the h x w image.
        report: called with the number of iterations done and of all: before each, on CUDA with
            kernels before every fourth. What it raises ends the work.
    """
    options = options or ConsistencyOptions()
    intrinsics = intrinsics.to(prior).expand(len(prior), 4)
    total = options.frame_iterations + options.pixel_iterations
    flatness = torch.empty_like(prior)  # [N,h,w]
    for frame, edges in zip(prior.split(1), flatness.split(1), strict=True):
        edges.copy_(flatness_weight(frame))
    held = prior.clamp(LEAST, MOST)  # [N,h,w]
    uncertainty = uncertainty.clone()  # [N,h,w]
    bounded = not options.reference_quirks

    def descend(
        model: FrameLines | FreePixels,
        weights: LossWeights,
        rate: float,
        iterations: int,
        before: int,
    ) -> Tensor:
        loss = _total_loss(held, flatness, intrinsics, pairs, weights, options)
        descent = Descent(loss, model, uncertainty, bounded, rate, iterations)
        return descent.run(lambda done: report(before + done, total))

    lines = FrameLines(prior)
    frame_losses = descend(
        lines, options.frame_weights, options.frame_rate, options.frame_iterations, 0
    )
    disparity = lines.disparity()  # [N,h,w]
    held = lines.apply(held).clamp_(LEAST, MOST)
    pixel_losses = descend(
        FreePixels(disparity, bounded),
        options.pixel_weights,
        options.pixel_rate,
        options.pixel_iterations,
        options.frame_iterations,
    )
    report(total, total)
    return ConsistentDisparity(
        disparity,
        uncertainty,
        lines.log_scale.flatten(),
        lines.shift.flatten(),
        frame_losses,
        pixel_losses,
    )


def _total_loss(
    held: Tensor,
    flatness: Tensor,
    intrinsics: Tensor,
    pairs: FlowPairs,
    weights: LossWeights,
    options: ConsistencyOptions,
) -> TotalLoss:
    """By kernels where they run, else by plain torch."""
    if options.reference_quirks or kernels_for(held) is None:
        return Objective(held, flatness, intrinsics, pairs, weights, options.pixels_at_once)
    from megasam_server.video_depth.fused_objective import FusedObjective  # needs Triton

    return FusedObjective(held, flatness, intrinsics, pairs, weights)


def depth_at_size(
    disparity: Tensor, height: int, width: int, reference_quirks: bool = False
) -> Tensor:
    """Depth [N,height,width] in 0.001 .. 100 from optimised disparity [N,h,w].

    Args:
        reference_quirks: float16, and what is not positive becomes the nearest depth, as in the
            published script; else float32, and it becomes the farthest.
    """
    enlarged = F.interpolate(disparity[:, None], (height, width), mode="bilinear")[:, 0]
    if reference_quirks:
        return (1 / enlarged).half().clamp(1e-3, 1e2)
    return 1 / enlarged.clamp(1e-2, 1e3)
