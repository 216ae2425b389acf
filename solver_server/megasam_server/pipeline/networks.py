"""The networks of a solve: loaded when a stage needs them, gone before the next stage does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from megasam_server.checkpoints.load import load_network
from megasam_server.checkpoints.selection import Selection
from megasam_server.pipeline.out_of_memory import explained, release_memory
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


# UniDepth's focal length passes through an exponential, which half precision spoils.
_FULL_PRECISION = {"metric_depth"}


class CheckpointNetworks:
    """The networks of the chosen checkpoints, on the GPU where there is one.

    Half precision (float16, as the reference) on CUDA, float32 on a CPU.
    """

    correlations = Correlations()

    def __init__(self, selection: Selection, commercial_only: bool = False) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = torch.float16 if self.device.type == "cuda" else torch.float32
        self._selection = selection
        self._commercial_only = commercial_only

    def identity(self, stage: str) -> str | None:
        status = self._selection.chosen.get(stage)
        if status is None or status.path is None:
            return None
        stat = status.path.stat()
        return f"{status.checkpoint.name} {stat.st_size} {stat.st_mtime_ns} {self.precision}"

    @contextmanager
    def borrow(self, stage: str) -> Iterator[torch.nn.Module]:
        """
        Raises:
            MegasamError: of :func:`load_network`, or ``out_of_gpu_memory``.
        """
        status = self._selection.chosen[stage]
        network = load_network(status.checkpoint, status.path, self._commercial_only)
        dtype = torch.float32 if stage in _FULL_PRECISION else self.precision
        try:
            with explained(stage):
                network.to(self.device, dtype)
            yield network
        finally:
            # A caller's name for it may live on: what it holds must not.
            network.to("meta")
            release_memory()
