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

    @property
    def stay_on_device(self) -> bool:
        """None of them had to go to the host."""
        return all(states.device.type == self._device.type for states in self._groups.values())

    def __getitem__(self, group: int) -> Tensor:
        return self._groups[group].to(self._device, non_blocking=True)

    def __setitem__(self, group: int, states: Tensor) -> None:
        """Keep the states of a group, in place of any before, which had the same shape and dtype."""
        if group in self._groups:
            self._groups[group].copy_(states, non_blocking=True)
        elif states.nbytes <= self._free:
            self._free -= states.nbytes
            self._groups[group] = states
        else:
            # Pinned, so that the copies run beside the computation.
            pinned = self._device.type == "cuda"
            place = torch.empty_like(states, device="cpu", pin_memory=pinned)
            self._groups[group] = place.copy_(states, non_blocking=True)
