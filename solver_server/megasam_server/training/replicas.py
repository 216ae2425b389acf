"""One training run on several GPUs: a process for each, with data of its own, started by ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


class Replicas:
    """The processes of a run; one alone where ``torchrun`` did not start it.

    They begin with the same weights, and as each steps by the average of all gradients, with the same
    learning rate, they keep them the same.

    Args:
        device: of the gradients.

    Attributes:
        count: of processes.
        rank: of this one; the first, 0, writes the files.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        if self.count > 1:
            gradients = ",cuda:nccl" if device.type == "cuda" else ""
            distributed.init_process_group(f"cpu:gloo{gradients}")

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agreed(self, *values: float) -> list[float]:
        """The values of the first process. Nothing waits for the GPU."""
        if self.count == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(told, 0)
        return told.tolist()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """In place. One that is infinite anywhere is so everywhere, and all skip the step."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(joined.div_(self.count))
        parts = joined.split([gradient.numel() for gradient in gradients])
        averages: list[Tensor] = [
            part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)
        ]
        torch._foreach_copy_(gradients, averages)

    def part(self) -> None:
        """The others are not needed any more."""
        if self.count > 1:
            distributed.destroy_process_group()
