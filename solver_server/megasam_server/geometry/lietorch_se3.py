"""Operations of :mod:`megasam_server.geometry.se3` by princeton-vl's lietorch, where it is there.

For single calls outside of the bundle adjustment: those of pose filling. That one stays with the built-in operations:
lietorch launches its kernels on CUDA's default stream whatever stream is current, so they can
neither be captured in a graph nor follow work on another stream. Its derivatives are those by a left
twist of the pose, not by the seven numbers.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from megasam_server.geometry import se3
from megasam_server.geometry.lietorch_check import find_lietorch


class SE3Operations(Protocol):
    """What both implementations offer; meaning and shapes as in :mod:`megasam_server.geometry.se3`."""

    def log(self, pose: Tensor) -> Tensor: ...
    def inverse(self, pose: Tensor) -> Tensor: ...
    def compose(self, a: Tensor, b: Tensor) -> Tensor: ...
    def retract(self, pose: Tensor, twist: Tensor) -> Tensor: ...


def se3_operations() -> SE3Operations:
    """lietorch's operations if it is truly there, else the built-in ones."""
    if find_lietorch().kind != "princeton":
        return se3
    from lietorch import SE3

    return LietorchOperations(SE3)


class LietorchOperations:
    """``group`` is ``lietorch.SE3``."""

    def __init__(self, group: type) -> None:
        self._group = group

    def log(self, pose: Tensor) -> Tensor:
        return self._element(pose).log()

    def inverse(self, pose: Tensor) -> Tensor:
        return self._element(pose).inv().data

    def compose(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = _same_axes(a, b)
        return (self._element(a) * self._element(b)).data

    def retract(self, pose: Tensor, twist: Tensor) -> Tensor:
        pose, twist = _same_axes(pose, twist)
        return self._element(pose).retr(twist).data

    def _element(self, pose: Tensor):
        return self._group.InitFromVec(pose.contiguous())


def _same_axes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both expanded to the same leading axes, which lietorch does only for as many axes."""
    axes = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return a.expand(*axes, -1).contiguous(), b.expand(*axes, -1).contiguous()
