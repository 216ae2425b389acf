"""A network in the precision that the GPU is fast in, and its master in float32."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WorkingCopy:
    """The optimiser moves ``master``; forward and backward pass run through ``network``.

    Autocast would do for networks of plain layers. It converts every weight anew at each use, and
    joins of half and float32 tensors come out in float32: an update operator that is called many
    times a step pays for both.

    Attributes:
        master: float32.
        network: the same weights in ``dtype``.
    """

    def __init__(self, master: nn.Module, dtype: torch.dtype) -> None:
        self.master = master
        self.network = copy.deepcopy(master).to(dtype)

    def take_gradients(self, loss: Tensor) -> None:
        """Those of ``loss`` go to the master, always to the same place; a parameter that it does not
        depend on keeps None."""
        weights = list(self.network.parameters())
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        to, of = [], []
        for own, gradient in zip(self.master.parameters(), gradients, strict=True):
            if gradient is None:
                own.grad = None
                continue
            if own.grad is None:
                # In the layout of the parameter, as fused optimisers want it.
                own.grad = torch.empty_like(own)
            to.append(own.grad)
            of.append(gradient)
        torch._foreach_copy_(to, of)

    @torch.no_grad()
    def take_weights(self) -> None:
        """The master has moved."""
        torch._foreach_copy_(list(self.network.parameters()), list(self.master.parameters()))

    @torch.no_grad()
    def hand_over_statistics(self) -> None:
        """What norms noted of the batches goes to the master."""
        torch._foreach_copy_(list(self.master.buffers()), list(self.network.buffers()))
