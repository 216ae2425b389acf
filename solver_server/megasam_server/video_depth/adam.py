"""Adam (Kingma and Ba 2015) that can be captured in a CUDA graph.

``torch.optim`` has one too, but making the first of its optimisers imports a compiler, which takes a
second of every new process.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from megasam_server.models.gpu_kernels import kernels_for

_DECAYS = (0.9, 0.999)
_LEAST_ROOT = 1e-8


@dataclass(frozen=True)
class Variable:
    """A float32 tensor that is changed in place; after each step between ``least`` and ``most``."""

    values: Tensor
    least: float = -inf
    most: float = inf


class Adam:
    """Adam on some variables, from where they are.

    Args:
        rate: of learning.
    """

    def __init__(self, variables: list[Variable], rate: float) -> None:
        self._variables, self._rate = variables, rate
        self._means = [torch.zeros_like(variable.values) for variable in variables]
        self._squares = [torch.zeros_like(variable.values) for variable in variables]
        # On the device, as everything that changes from step to step.
        device = variables[0].values.device
        self._steps = torch.zeros((), dtype=torch.float64, device=device)

    def step(self, gradients: list[Tensor]) -> None:
        """One step; ``gradients`` are float32, of the variables in their order."""
        self._steps += 1
        of_mean, of_square = (1 - decay**self._steps for decay in _DECAYS)
        scales = torch.stack([self._rate / of_mean, of_square.rsqrt()]).float()  # [2]
        states = zip(self._variables, gradients, self._means, self._squares, strict=True)
        for variable, gradient, mean, square in states:
            _update(variable, gradient, mean, square, scales)


def _update(
    variable: Variable, gradient: Tensor, mean: Tensor, square: Tensor, scales: Tensor
) -> None:
    """One step of one variable and its two moments, by a kernel where it runs.

    Args:
        scales: [2], of the mean (with the rate), and of the root of the mean square.
    """
    decays = [1 - decay for decay in _DECAYS]
    values, bounds = variable.values, (variable.least, variable.most)
    if kernels_for(values) is not None:
        from megasam_server.video_depth.adam_kernel import update  # needs Triton

        update(values, gradient, mean, square, scales, decays, _LEAST_ROOT, bounds)
        return
    mean.lerp_(gradient, decays[0])
    square.lerp_(gradient.square(), decays[1])
    change = mean * scales[0] / (square.sqrt() * scales[1] + _LEAST_ROOT)
    values.sub_(change).clamp_(*bounds)
