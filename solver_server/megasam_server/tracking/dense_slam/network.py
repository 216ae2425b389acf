"""What the tracker needs of a network. :class:`megasam_server.models.droid_net.DroidNet` is one; tests bring others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from megasam_server.models.correlation import CorrelationVolume, OnTheFlyCorrelation
from megasam_server.models.droid_net import EdgeSources


class Update(Protocol):
    """Result of one call of the update operator, for E edges from U different source frames (sorted)."""

    net: Tensor  # [E, 128, h, w] hidden state
    delta: Tensor  # [E, h, w, 2] correction of the target, 1/8 pixels
    eta: Tensor  # [U, h, w] damping of the disparity
    motion_weight: Tensor  # [E, h, w, 2] confidence times probability of being static
    static_probability: Tensor  # [E, h, w] 1 = static


class SourceInputs(Protocol):
    """What updates need of the source frames; ``[ii]`` chooses one of these for each edge."""

    def __getitem__(self, ii: Tensor) -> SourceInputs: ...


class TrackingNetwork(Protocol):
    """Features, context and the update operator of DROID-SLAM with MegaSaM's motion branch."""

    def features(self, images: Tensor) -> Tensor:
        """Matching features [B, 128, h, w] of BGR images [B, 3, H, W], 0..255."""

    def context(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Initial hidden state and input of the update operator, each [B, 128, h, w]."""

    def source_inputs(self, inp: Tensor) -> SourceInputs:
        """Of the inputs [U, 128, h, w] of frames: all that can be computed before their edges are updated."""

    def update(
        self,
        net: Tensor,
        inp: Tensor | SourceInputs,
        corr: Tensor,
        motion: Tensor | None,
        ii: EdgeSources | None,
        with_upmask: bool,
    ) -> Update:
        """One step. ``inp`` is of each edge's source frame. ``motion`` and ``ii`` are None for the motion filter, which
        needs ``delta`` only.

        ``with_upmask`` is False: the tracker has no use for it.
        """


class EdgeCorrelation(Protocol):
    """Correlation of the features of given edges; grows and shrinks with the graph."""

    def lookup(self, coords: Tensor) -> Tensor:
        """[E, 196, h, w] around ``coords`` [E, h, w, 2]."""

    def cat(self, other: EdgeCorrelation) -> EdgeCorrelation: ...

    def __getitem__(self, index: Tensor) -> EdgeCorrelation: ...


class FrameCorrelation(Protocol):
    """Correlation between frames, computed when it is looked up."""

    def lookup(self, coords: Tensor, ii: Tensor, jj: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Correlations:
    """How features are compared: by all-pairs volumes in the frontend, on the fly in large graphs.

    Attributes:
        volume: of (fmaps_i, fmaps_j), [E, C, h, w] each.
        on_the_fly: of fmaps [N, C, h, w].
    """

    volume: Callable[[Tensor, Tensor], EdgeCorrelation] = CorrelationVolume
    on_the_fly: Callable[[Tensor], FrameCorrelation] = OnTheFlyCorrelation
