"""One run of Adam on the total loss of consistent video depth.

The gradient by the variables is written out, not left to automatic differentiation: so a step only
works on the device, in memory that is known beforehand, and can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from megasam_server.models.cuda_graph import Replayed
from megasam_server.video_depth.adam import Adam, Variable
from megasam_server.video_depth.consistency_losses import LEAST, MOST

UNCERTAINTIES = (1e-4, 1e3)
"""Range of an uncertainty in the losses."""

_BETWEEN_REPORTS = 4  # iterations of a graph


class TotalLoss(Protocol):
    """What is minimised, see :class:`~megasam_server.video_depth.consistency_objective.Objective`.

    Attributes:
        capturable: whether a call can be captured in a CUDA graph.
    """

    capturable: bool

    def __call__(self, disparity: Tensor, uncertainty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The total, and its gradients by the two arguments, [N,h,w] each."""


class FrameLines:
    """Disparity exp(log_scale) prior + shift, with one line for each frame; at first the prior.

    Args:
        prior: [N,h,w].
    """

    def __init__(self, prior: Tensor) -> None:
        self._prior = prior
        self.log_scale = prior.new_zeros(len(prior), 1, 1)
        self.shift = prior.new_zeros(len(prior), 1, 1)
        self.variables = [Variable(self.log_scale), Variable(self.shift)]

    def apply(self, values: Tensor) -> Tensor:
        """Each frame's line of some values [N,h,w]."""
        return torch.addcmul(self.shift, values, self.log_scale.exp())

    def disparity(self) -> Tensor:
        """[N,h,w]."""
        return self.apply(self._prior)

    def gradients(self, by_disparity: Tensor) -> list[Tensor]:
        """Gradients by the variables from that by the disparity, [N,h,w]."""
        by_scale = (by_disparity * self._prior).sum((1, 2), keepdim=True)
        return [by_scale * self.log_scale.exp(), by_disparity.sum((1, 2), keepdim=True)]


class FreePixels:
    """A disparity of which every pixel is a variable.

    Args:
        start: [N,h,w], changed in place.
        bounded: keep it in range.
    """

    def __init__(self, start: Tensor, bounded: bool) -> None:
        self._disparity = start
        self.variables = [Variable(start, LEAST, MOST) if bounded else Variable(start)]

    def disparity(self) -> Tensor:
        """[N,h,w]."""
        return self._disparity

    def gradients(self, by_disparity: Tensor) -> list[Tensor]:
        """Gradients by the variables from that by the disparity, [N,h,w]."""
        return [by_disparity]


class Descent:
    """Adam, from where the variables are.

    Args:
        loss: of the disparity and the uncertainty, both brought into range first.
        model: what the disparity is made from; its variables are changed in place.
        uncertainty: [N,h,w], changed in place.
        bounded: keep the uncertainty in range.
        rate: of learning.
        iterations: how many steps there will be at most.
    """

    def __init__(
        self,
        loss: TotalLoss,
        model: FrameLines | FreePixels,
        uncertainty: Tensor,
        bounded: bool,
        rate: float,
        iterations: int,
    ) -> None:
        self._loss, self._model, self._uncertainty = loss, model, uncertainty
        own = Variable(uncertainty, *UNCERTAINTIES) if bounded else Variable(uncertainty)
        self._adam = Adam([*model.variables, own], rate)
        self._losses = uncertainty.new_empty(iterations)
        self._done = torch.zeros(1, dtype=torch.int64, device=uncertainty.device)

    def step(self) -> None:
        """One iteration."""
        free = self._model.disparity()  # [N,h,w]
        disparity, uncertainty = free.clamp(LEAST, MOST), self._uncertainty.clamp(*UNCERTAINTIES)
        total, by_disparity, by_uncertainty = self._loss(disparity, uncertainty)
        self._losses.index_copy_(0, self._done, total.reshape(1))
        self._done += 1
        # What was brought into range is not felt any more.
        by_disparity.nan_to_num_(0, 0, 0).mul_(free == disparity)
        by_uncertainty.nan_to_num_(0, 0, 0).mul_(uncertainty == self._uncertainty)
        del free, disparity, uncertainty
        self._adam.step([*self._model.gradients(by_disparity), by_uncertainty])

    def run(self, report: Callable[[int], None]) -> Tensor:
        """All iterations.

        Args:
            report: called before each with the number done; where they replay a graph, before every
                fourth, and the device may be eight behind. What it raises ends the work.

        Returns:
            [iterations], total loss before each.
        """
        if self._uncertainty.is_cuda and self._loss.capturable:
            self._replay(report)
        else:
            for done in range(len(self._losses)):
                report(done)
                self.step()
        return self._losses

    def _replay(self, report: Callable[[int], None]) -> None:
        step = Replayed(self.step, self._uncertainty.device)
        reached = torch.cuda.Event()
        for done in range(len(self._losses)):
            if done % _BETWEEN_REPORTS == 0:
                # Where the device was a report ago: it still has work while this thread waits.
                reached.synchronize()
                report(done)
                reached.record()
            step()
