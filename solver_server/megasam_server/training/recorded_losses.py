"""Losses of a lesson, and gradients at the master, as one graph of kernels."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megasam_server.models.cuda_graph import Replayed
from megasam_server.training.working_copy import WorkingCopy


@dataclass(frozen=True)
class Losses:
    """Scalars.

    Attributes:
        total: its gradient is what is learned from.
        parts: for the log.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Given(Protocol):
    """A tensor, or what is made of tensors of always the same shapes."""

    def clone(self) -> Given:
        """The same in memory of its own."""

    def copy_(self, other: Given) -> object:
        """Overwrite the tensors."""


class RecordedLosses:
    """Forward and backward pass of a working copy.

    They are thousands of small kernels, which take longer to start one by one than to run. So for
    each plan they are recorded once (:class:`Replayed`), and what is given is copied to where the graph
    reads it.

    Args:
        losses: what is given, and the plan -> losses, through ``copy.network``. It never waits for the
            device.
        copy: of the network that learns.
        scaler: of the loss; its scale lives on the device.
        device: of the tensors.
    """

    def __init__(
        self,
        losses: Callable[..., Losses],
        copy: WorkingCopy,
        scaler: torch.amp.GradScaler,
        device: torch.device,
    ) -> None:
        self._losses, self._copy, self._scaler, self._device = losses, copy, scaler, device
        self._given: tuple[Given, ...] | None = None
        self._recorded: dict[Hashable, Replayed] = {}
        self._figures: dict[Hashable, dict[str, Tensor]] = {}

    def work_through(self, *given: Given, plan: Hashable = None) -> dict[str, Tensor]:
        """Leave the scaled gradients at the master. Returns the parts of the loss, scalars."""
        if self._given is None:
            self._given = tuple(one.clone() for one in given)
        else:
            for place, one in zip(self._given, given, strict=True):
                place.copy_(one)
        if plan not in self._recorded:
            self._recorded[plan] = Replayed(lambda: self._work(plan), self._device)
        self._recorded[plan]()
        # The next replay writes to the same place.
        return {name: figure.clone() for name, figure in self._figures[plan].items()}

    def _work(self, plan: Hashable) -> None:
        losses = self._losses(*self._given, plan)
        self._copy.take_gradients(self._scaler.scale(losses.total))
        self._figures[plan] = losses.parts
