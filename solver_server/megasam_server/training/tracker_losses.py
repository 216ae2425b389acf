"""What the tracking network is taught by: flow, confidence, motion, and what bundle adjustment makes
of them."""

from __future__ import annotations

import torch
from torch import Tensor

from megasam_server.training.clips import CELL
from megasam_server.training.recorded_losses import Losses
from megasam_server.training.unrolling import ClipGraph, Lesson, Revision, project

DISCOUNT = 0.9
# weight = 1 / (1 + expected residual / SURE_CELLS)^2: squares weighted so are in the ratio of the
# information that bundle adjustment wants, and never so sure that nothing could be learned any more.
SURE_CELLS = 0.1
LARGEST_RESIDUAL = 16.0
# Where the target is out of the picture the network can only guess.
GUESS = 0.2
CONFIDENCE, STATIC, GEOMETRY = 0.1, 0.5, 0.5
LARGEST_GEOMETRY = 8.0
MOVING_WEIGHT = 2.0
UNKNOWN = torch.tensor(torch.nan)


class Teacher:
    """Adds the losses of the iterations of one unrolling; the later ones count more."""

    def __init__(self, lesson: Lesson, graph: ClipGraph, iterations: int) -> None:
        self._lesson, self._graph, self._iterations = lesson, graph, iterations
        self._counted = lesson.valid.float()
        self._inside = inside(lesson.target, graph.grid) & lesson.valid
        share = GUESS + (1 - GUESS) * self._inside.float()
        self._share = share * self._counted  # [E*B,h,w]
        self._total = self._taught = torch.zeros((), device=share.device)
        self._seen = 0
        motion = (lesson.target - graph.grid).norm(dim=-1)
        self._parts = {
            "motion_px": CELL * mean(motion, self._inside.float()),
            "static": UNKNOWN,
            "geometry": UNKNOWN,
        }

    def hear(self, revision: Revision) -> None:
        """One more iteration."""
        lesson, output = self._lesson, revision.output
        residual = revision.target - lesson.target
        flow = mean(residual.abs().mean(-1), self._share)
        confidence = mean(confidence_loss(output.weight, residual.detach()), self._counted)
        loss = flow + CONFIDENCE * confidence
        off = (revision.coords - lesson.rigid).norm(dim=-1)
        self._parts |= {
            "error_px": CELL * mean(residual.detach().norm(dim=-1), self._inside.float()),
            "state_px": CELL * mean(off, (self._inside & lesson.static).float()),
            "weight": mean(output.weight.detach().mean(-1), self._inside.float()),
            "confidence": confidence.detach(),
        }
        if output.static_probability is not None:
            static = static_loss(output.static_probability, lesson.static, self._counted)
            loss = loss + STATIC * static
            self._parts["static"] = static.detach()
        self._seen += 1
        self._total = self._total + DISCOUNT ** (self._iterations - self._seen) * loss
        self._taught = self._total.detach()

    def examine(self, revision: Revision) -> None:
        """What bundle adjustment makes of an iteration: the flow that the adjusted cameras and
        disparities induce, with gradients through the adjustment.

        A gradient of it says nothing where the system is close to singular. None may count more than
        that of a residual in the flow's loss; weights and dampings count by their logarithm.
        """
        lesson, graph, output = self._lesson, self._graph, revision.output
        answers = [revision.target, revision.weight]
        if output.eta is not None:
            answers.append(output.eta)
        given = [answer.detach().requires_grad_() for answer in answers]
        fitted = graph.adjust(revision.state, lesson.intrinsics, *given)
        coords, _ = project(fitted, lesson.intrinsics, graph)
        off = (coords - lesson.rigid).abs().clamp(max=LARGEST_GEOMETRY).mean(-1)
        geometry = mean(off, (self._inside & lesson.static).float())
        limit = 1 / self._share.sum().clamp(min=1)
        scales = [1.0, *(answer.detach().clamp(min=1e-6) for answer in answers[1:])]
        gradients = torch.autograd.grad(geometry, given)
        for answer, gradient, scale in zip(answers, gradients, scales, strict=True):
            relative = (gradient * scale).nan_to_num(0.0).clamp(-limit, limit)
            self._total = self._total + GEOMETRY * (answer * relative / scale).sum()
        self._parts["geometry"] = geometry.detach()

    def losses(self) -> Losses:
        """Of the parts, ``loss`` is discounted, without that of the geometry; the others are of the
        last iteration."""
        return Losses(self._total, {"loss": self._taught, **self._parts})


def confidence_loss(weight: Tensor, residual: Tensor) -> Tensor:
    """Negative log likelihood, up to a constant, of residuals (cells) and an error of SURE_CELLS that is always there,
    which follow Laplace's distribution of scale SURE_CELLS / sqrt(weight).

    Args:
        weight, residual: [...,2].

    Returns:
        [...], the mean over x and y.
    """
    weight = weight.clamp(min=1e-6)
    return (normalised_residual(weight, residual) - 0.5 * weight.log()).mean(-1)


def normalised_residual(weight: Tensor, residual: Tensor) -> Tensor:
    """Residuals over what their weights expect; 1 on the average where these are honest."""
    return (1 + residual.abs().clamp(max=LARGEST_RESIDUAL) / SURE_CELLS) * weight.sqrt()


def static_loss(probability: Tensor, static: Tensor, counted: Tensor) -> Tensor:
    """Binary cross entropy of the probability that a cell stands still; movers, the few, count more."""
    probability = probability.clamp(1e-5, 1 - 1e-5)
    loss = -torch.where(static, probability.log(), MOVING_WEIGHT * (1 - probability).log())
    return mean(loss, counted)


def inside(target: Tensor, grid: Tensor) -> Tensor:
    """Whether places [...,h,w,2] lie in the picture, bool [...,h,w]."""
    last = grid[-1, -1]
    return ((target >= -0.5) & (target <= last + 0.5)).all(-1)


def mean(values: Tensor, share: Tensor) -> Tensor:
    """Weighted mean, 0 where nothing counts."""
    return (values * share).sum() / share.sum().clamp(min=1)
