"""Hidden states of a large graph: on the device while they fit, the rest in host memory."""

from __future__ import annotations

import torch
from torch import Tensor


class HiddenStates:
    """One tensor per group of edges. 128 numbers per pixel and edge make them the largest part of a graph.

    Args:
        device: where they are used.
        max_bytes: how much of them may stay there.
    """

    def __init__(self, device: torch.device, max_bytes: int) -> None:
        self._device = device
        self._free = max_bytes
        self._groups: dict[int, Tensor] = {}

    def __getitem__(self, group: int) -> Tensor:
        return self._groups[group].to(self._device, non_blocking=True)

    def __setitem__(self, group: int, states: Tensor) -> None:
        """Keep the states of a group, in place of any before, which had the same shape and dtype."""
        place = self._groups.get(group, states)
        if group not in self._groups:
            if states.nbytes <= self._free:
                self._free -= states.nbytes
            else:
                # Pinned, so that the copies run beside the computation.
                pinned = self._device.type == "cuda"
                place = torch.empty_like(states, device="cpu", pin_memory=pinned)
        on_host = place.device != states.device
        self._groups[group] = place.copy_(states, non_blocking=True) if on_host else states
