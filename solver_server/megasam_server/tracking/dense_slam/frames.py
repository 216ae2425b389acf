"""What the tracker is given: one frame at a time, any of them again later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class TrackingFrame:
    """A frame at the tracker's resolution, whose sides are multiples of 8.

    Attributes:
        image: [3, H, W] uint8, BGR.
        prior: [H/8, W/8] float32 disparity of the depth prior, 0 = none; None for a frame without one.
        keep: [H/8, W/8] float32, how much each pixel may count, 0 = left out, 1 = all; None = all.
    """

    image: Tensor
    prior: Tensor | None = None
    keep: Tensor | None = None


class FrameSource(Protocol):
    """The frames of a clip. Each is asked for about three times, mostly in the order of time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TrackingFrame: ...
