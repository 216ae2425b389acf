"""Networks that wait for their next use: on the device while it has room, then in host memory.

Whoever takes a network has it alone until it is put back. What waits here is all that stays of it:
what leaves the shelf keeps no memory, even where somebody still has a name for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import psutil

if TYPE_CHECKING:
    # Not imported at run time: workers without networks have a shelf, too.
    import torch
    from torch import nn

HOST_BUDGET = 3 << 30
"""The largest network of each stage fits."""

HOST_SPARE = 2 << 30
"""What networks leave free of the host's memory."""

_HOST_IS_FULL = "can't allocate memory"


@dataclass(frozen=True)
class NetworkKey:
    """Which network, and in which form.

    Attributes:
        checkpoint: whose weights.
        version: what changes when the checkpoint's file does.
        device, dtype: where and how it is used.
    """

    checkpoint: str
    version: str
    device: torch.device
    dtype: torch.dtype


class Memory(Protocol):
    """How much memory is free, bytes."""

    def free_on(self, device: torch.device) -> int:
        """What this process could still take of the device."""

    def free_on_host(self) -> int:
        """What the host could give away without swapping."""


class MachineMemory:
    """The :class:`Memory` of this machine."""

    def free_on(self, device: torch.device) -> int:
        # Only now: workers without networks have a shelf, too.
        from megasam_server.models.device_memory import free_on

        return free_on(device)

    def free_on_host(self) -> int:
        return psutil.virtual_memory().available


@dataclass
class _Waiting:
    network: nn.Module
    size: int
    on_device: bool


class NetworkShelf:
    """The networks of one process that are not in use.

    Args:
        memory: how much is free.
        host_budget: most bytes that networks hold in host memory; 0: none waits there.
    """

    def __init__(self, memory: Memory | None = None, host_budget: int = HOST_BUDGET) -> None:
        self._memory = memory or MachineMemory()
        self._host_budget = host_budget
        # The least recently used first.
        self._waiting: dict[NetworkKey, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def device_bytes(self) -> int:
        """Device memory of what waits there."""
        return sum(entry.size for entry in self._waiting.values() if entry.on_device)

    @property
    def host_bytes(self) -> int:
        """Host memory of what waits there."""
        return sum(entry.size for entry in self._waiting.values() if not entry.on_device)

    def take(self, key: NetworkKey, load: Callable[[], nn.Module]) -> nn.Module:
        """The network, on its device; the shelf knows nothing of it until it is put back.

        Args:
            load: makes it when it does not wait here, on any device.

        Raises:
            RuntimeError: torch's, where the device has no room: the network is gone then. What
                ``load`` raises passes through.
        """
        for other in list(self._waiting):
            if other.checkpoint == key.checkpoint and other.version != key.version:
                self._drop(other)
        entry = self._waiting.pop(key, None)
        network = load() if entry is None else entry.network
        try:
            network.to(key.device, key.dtype)
        except BaseException:
            network.to("meta")
            raise
        return network

    def put_back(
        self,
        key: NetworkKey,
        network: nn.Module,
        needed: int | None = None,
        next_key: NetworkKey | None = None,
    ) -> None:
        """Let a network wait where there is room, or drop it.

        Args:
            needed: bytes that must be free on the device for what comes next, see
                :meth:`make_room`; None: nothing may stay there.
            next_key: what will be used next.
        """
        self._drop(key)  # one that was made while this one was away
        # Moved to where it is: networks give up what they keep beside their weights, such as graphs.
        network.to(key.device, key.dtype)
        on_device = key.device.type != "cpu"
        size = bytes_of(network)
        if not on_device and not self._host_takes(size, more=0):
            network.to("meta")
            return
        self._waiting[key] = _Waiting(network, size, on_device)
        if needed is None:
            self.empty_device()
        else:
            self.make_room(key.device, needed, next_key)

    def make_room(
        self, device: torch.device, needed: int, next_key: NetworkKey | None = None
    ) -> None:
        """Let networks leave the device, least recently used first, until there is room.

        Args:
            needed: bytes that must be free on ``device``, with the weights of ``next_key``.
            next_key: what they are needed for; it stays, and where it waits on the device its
                weights are not needed once more.
        """
        there = [key for key, entry in self._waiting.items() if entry.on_device]
        if next_key in there:
            needed -= self._waiting[next_key].size
        for key in there:
            if self._memory.free_on(device) >= needed:
                return
            if key != next_key:
                self._leave_device(key)

    def empty_device(self) -> bool:
        """Let all networks leave the device; False when none was there."""
        there = [key for key, entry in self._waiting.items() if entry.on_device]
        for key in there:
            self._leave_device(key)
        return bool(there)

    def _leave_device(self, key: NetworkKey) -> None:
        entry = self._waiting[key]
        if not self._host_takes(entry.size, more=entry.size):
            self._drop(key)
            return
        try:
            entry.network.to("cpu")
        except RuntimeError as error:
            self._drop(key)
            if _HOST_IS_FULL not in str(error):
                raise
            return
        entry.on_device = False

    def _host_takes(self, size: int, more: int) -> bool:
        """Whether the host can hold one more network; older ones there give way.

        Args:
            size: its bytes. more: those of them that it does not hold yet.
        """
        if size > self._host_budget:
            return False
        on_host = [key for key, entry in self._waiting.items() if not entry.on_device]
        while not (
            self.host_bytes + size <= self._host_budget
            and self._memory.free_on_host() - more >= HOST_SPARE
        ):
            if not on_host:
                return False
            self._drop(on_host.pop(0))
        return True

    def _drop(self, key: NetworkKey) -> None:
        entry = self._waiting.pop(key, None)
        if entry is not None:
            # A caller's name for it may live on: what it holds must not.
            entry.network.to("meta")


def bytes_of(network: nn.Module) -> int:
    """Memory of a network's weights and buffers, bytes."""
    return sum(t.nbytes for t in chain(network.parameters(), network.buffers()))
