"""The networks of a solve: loaded when a stage needs them, out of the way before the next one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from megasam_shared.stages import STAGES

from megasam_server.checkpoints.load import load_network
from megasam_server.checkpoints.registry import refuse_non_commercial
from megasam_server.checkpoints.selection import Selection
from megasam_server.pipeline.network_shelf import NetworkKey, NetworkShelf
from megasam_server.pipeline.out_of_memory import explained, is_out_of_memory, release_memory
from megasam_server.tracking.dense_slam.network import Correlations


class Networks(Protocol):
    """Where the stages' networks come from.

    Attributes:
        device: what they run on.
        precision: of the tracker's features and hidden states.
        correlations: how the tracker compares features.
    """

    device: torch.device
    precision: torch.dtype
    correlations: Correlations

    def identity(self, stage: str) -> str | None:
        """What tells the stage's network from any other, for the stage cache; None: there is none."""

    def borrow(self, stage: str) -> AbstractContextManager[Any]:
        """The stage's network, on the device, until the block ends."""

    def make_room(self, stage: str) -> None:
        """Free what the stage needs of the device, for one that borrows nothing."""

    def empty_device(self) -> bool:
        """Free all that networks hold of the device while they are not borrowed; False when there
        was nothing."""


# UniDepth's decoder, that is: its encoder is halved.
_FULL_PRECISION = {"metric_depth"}

_STAGE_KEYS = [stage.key for stage in STAGES]


class CheckpointNetworks:
    """The networks of the chosen checkpoints, on the GPU where there is one.

    Half precision (float16, as the reference) on CUDA, float32 on a CPU.

    Args:
        commercial_only: refuse a licence that forbids commercial use.
        shelf: where networks wait for their next use, also by another solve; None: each is dropped
            when its block ends.

    Attributes:
        room_needed: stage key -> bytes of device memory that the stage takes with its network, 0
            for one that takes none; networks stay on the device between their uses as long as the
            next stage has this. None, nothing is known: they leave it at once.
    """

    correlations = Correlations()

    def __init__(
        self,
        selection: Selection,
        commercial_only: bool = False,
        shelf: NetworkShelf | None = None,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = torch.float16 if self.device.type == "cuda" else torch.float32
        self.room_needed: Callable[[str], int] | None = None
        self._selection = selection
        self._commercial_only = commercial_only
        self._shelf = NetworkShelf(host_budget=0) if shelf is None else shelf

    def identity(self, stage: str) -> str | None:
        status = self._selection.chosen.get(stage)
        if status is None or status.path is None:
            return None
        stat = status.path.stat()
        # Built-in weights of two versions have the same size, and from some installers the same time.
        versions = [file.sha256 for file in status.checkpoint.files]
        name = f"{status.checkpoint.name} {versions}"
        return f"{name} {stat.st_size} {stat.st_mtime_ns} {self.precision}"

    @contextmanager
    def borrow(self, stage: str) -> Iterator[torch.nn.Module]:
        """
        Raises:
            MegasamError: of :func:`load_network`, or ``out_of_gpu_memory``.
        """
        needed, following = self._needed_after(stage)
        self.make_room(stage)
        with explained(stage):
            key, network = self._take(stage)
            if stage in _FULL_PRECISION and self.device.type == "cuda":
                network.halve_encoder()
        try:
            yield network
        finally:
            release_memory()  # or what the stage is done with would count as taken
            self._shelf.put_back(key, network, needed, following)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def make_room(self, stage: str) -> None:
        if self.room_needed is not None:
            self._shelf.make_room(self.device, self.room_needed(stage), self._key(stage))

    def empty_device(self) -> bool:
        return self._shelf.empty_device()

    def _take(self, stage: str) -> tuple[NetworkKey, torch.nn.Module]:
        """The network of a stage, whatever must leave the device for it."""
        status = self._selection.chosen[stage]
        # One that waits on the shelf was perhaps loaded for somebody with another licence.
        if self._commercial_only:
            refuse_non_commercial(status.checkpoint)
        key = self._key(stage)

        def load() -> torch.nn.Module:
            return load_network(status.checkpoint, status.path, self._commercial_only)

        try:
            return key, self._shelf.take(key, load)
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self._shelf.empty_device():
                raise
        release_memory()
        return key, self._shelf.take(key, load)

    def _key(self, stage: str) -> NetworkKey | None:
        status = self._selection.chosen.get(stage)
        if status is None or status.path is None:
            return None
        stat = status.path.stat()
        version = f"{status.path} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
        dtype = torch.float32 if stage in _FULL_PRECISION else self.precision
        return NetworkKey(status.checkpoint.name, version, self.device, dtype)

    def _needed_after(self, stage: str) -> tuple[int | None, NetworkKey | None]:
        """What the next stage that needs memory needs, and its network."""
        if self.room_needed is None:
            return None, None
        later = _STAGE_KEYS[_STAGE_KEYS.index(stage) + 1 :]
        for following in later:
            if needed := self.room_needed(following):
                return needed, self._key(following)
        return 0, None
