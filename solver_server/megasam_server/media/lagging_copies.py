"""Results on their way from the device to the host, while the device works on the next ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class LaggingCopies:
    """Hands tensors over on the host, in order, each when the next ones are under way.

    So neither side waits for the other: while one result is copied and written, the device computes.

    Args:
        take: called with the tensors of a :meth:`put`, on the CPU, which are its for the time of the call.
    """

    def __init__(self, take: Callable[..., None]) -> None:
        self._take = take
        self._under_way: tuple[list[Tensor], torch.cuda.Event | None] | None = None

    def put(self, *tensors: Tensor) -> None:
        """Send tensors on their way; those before have arrived when this returns."""
        on_cuda = tensors[0].is_cuda
        copies = [x.to("cpu", non_blocking=True) for x in tensors] if on_cuda else list(tensors)
        arrived = None
        if on_cuda:
            arrived = torch.cuda.Event()
            arrived.record()
        self.finish()
        self._under_way = copies, arrived

    def finish(self) -> None:
        """Wait for the last ones."""
        if self._under_way is None:
            return
        copies, arrived = self._under_way
        self._under_way = None
        if arrived is not None:
            arrived.synchronize()
        self._take(*copies)
