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

from megasam_server.video_depth.consistency_losses import LEAST, MOST, FlowPairs, flatness_weight
from megasam_server.video_depth.consistency_objective import LossWeights, Objective

_UNCERTAINTIES = (1e-4, 1e3)


@dataclass(frozen=True)
class ConsistencyOptions:
    """How to optimise; the numbers of the MegaSaM scripts.

    Attributes:
        frame_iterations, frame_rate, frame_weights: iterations, learning rate and weights while each
            frame has one scale and one shift.
        pixel_iterations, pixel_rate, pixel_weights: the same while every pixel is free.
        pixels_at_once: of pairs, and of frames, that are differentiated together; each takes about
            250 bytes while it is worked on, less when compiled.
        compiled: compile the losses (torch.compile): worth it on CUDA, where they are bound by memory
            traffic that fusing saves.
        reference_quirks: let variables leave the range in which the losses feel them, as the published
            script does. Such a pixel has no gradient any more and keeps its last value.
    """

    frame_iterations: int = 100
    frame_rate: float = 1e-2
    frame_weights: LossWeights = field(default_factory=lambda: LossWeights(normal=4.0))
    pixel_iterations: int = 400
    pixel_rate: float = 5e-3
    pixel_weights: LossWeights = field(default_factory=LossWeights)
    pixels_at_once: int = 4_000_000
    compiled: bool = False
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
        pairs: flow between the frames. Flow and masks may lie on the host: a chunk at a time goes to
            the device of ``prior``.
        intrinsics: [N,4] or [4], (fx, fy, cx, cy) of the h x w image.
        report: called before each iteration with the number done and the number of all.
    """
    options = options or ConsistencyOptions()
    intrinsics = intrinsics.to(prior).expand(len(prior), 4)
    total = options.frame_iterations + options.pixel_iterations
    flatness = flatness_weight(prior)  # [N,h,w]
    held = prior.clamp(LEAST, MOST)  # [N,h,w]
    uncertainty = uncertainty.clone().requires_grad_()  # [N,h,w]

    log_scale = torch.zeros(len(prior), 1, 1, device=prior.device, requires_grad=True)  # [N,1,1]
    shift = torch.zeros_like(log_scale, requires_grad=True)  # [N,1,1]

    def aligned(values: Tensor) -> Tensor:
        return torch.addcmul(shift, values, log_scale.exp())  # [N,h,w]

    def objective(weights: LossWeights) -> Objective:
        return Objective(
            held, flatness, intrinsics, pairs, weights, options.pixels_at_once, options.compiled
        )

    bounds = [] if options.reference_quirks else [(uncertainty, *_UNCERTAINTIES)]
    frame_losses = _descend(
        objective(options.frame_weights),
        lambda: aligned(prior),
        uncertainty,
        torch.optim.Adam([log_scale, shift, uncertainty], lr=options.frame_rate),
        bounds,
        options.frame_iterations,
        lambda done: report(done, total),
    )
    with torch.no_grad():
        disparity = aligned(prior)  # [N,h,w]
        held = aligned(held).clamp_(LEAST, MOST)
    disparity.requires_grad_()
    if not options.reference_quirks:
        bounds.append((disparity, LEAST, MOST))
    pixel_losses = _descend(
        objective(options.pixel_weights),
        lambda: disparity,
        uncertainty,
        torch.optim.Adam([disparity, uncertainty], lr=options.pixel_rate),
        bounds,
        options.pixel_iterations,
        lambda done: report(options.frame_iterations + done, total),
    )
    report(total, total)
    return ConsistentDisparity(
        disparity.detach(),
        uncertainty.detach(),
        log_scale.detach().flatten(),
        shift.detach().flatten(),
        frame_losses,
        pixel_losses,
    )


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


def _descend(
    objective: Objective,
    disparity_of: Callable[[], Tensor],
    uncertainty: Tensor,
    adam: torch.optim.Adam,
    bounds: list[tuple[Tensor, float, float]],
    iterations: int,
    report: Callable[[int], None],
) -> Tensor:
    """Iterations of ``adam``, which moves ``uncertainty`` and what ``disparity_of`` is made from.

    Args:
        bounds: tensors that are brought back between the two numbers after each iteration.

    Returns:
        [iterations], total loss before each.
    """
    losses = uncertainty.new_empty(iterations)
    for done in range(iterations):
        report(done)
        disparity = disparity_of().clamp(LEAST, MOST)  # [N,h,w]
        felt = uncertainty.clamp(*_UNCERTAINTIES)  # [N,h,w]
        losses[done], *gradients = objective(disparity.detach(), felt.detach())
        adam.zero_grad()
        torch.autograd.backward([disparity, felt], [g.nan_to_num_(0, 0, 0) for g in gradients])
        adam.step()
        with torch.no_grad():
            for values, least, most in bounds:
                values.clamp_(least, most)
    return losses
