"""A network in the precision that the GPU is fast in, and its master in float32."""

from __future__ import annotations

import copy

import torch
from torch import nn


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

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Move the gradients to the master; a parameter without keeps None."""
        to, of = [], []
        for own, working in zip(self.master.parameters(), self.network.parameters(), strict=True):
            own.grad = None
            if working.grad is not None:
                # In the layout of the parameter, as fused optimisers want it.
                own.grad = torch.empty_like(own)
                to.append(own.grad)
                of.append(working.grad)
                working.grad = None
        torch._foreach_copy_(to, of)

    @torch.no_grad()
    def take_weights(self) -> None:
        """The master has moved."""
        torch._foreach_copy_(list(self.network.parameters()), list(self.master.parameters()))
