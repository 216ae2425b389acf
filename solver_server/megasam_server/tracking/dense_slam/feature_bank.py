"""Features of frames: those used last on the device, the others in host memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrameFeatures:
    """What the network computes once for a frame, each [128, h, w].

    Attributes:
        fmap: matching features.
        net: hidden state that edges from this frame start with; None until the frame is such a source.
        inp: input of the update operator; None as ``net``.
    """

    fmap: Tensor
    net: Tensor | None = None
    inp: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> FrameFeatures:
        moved = {
            field.name: tensor.to(device, dtype, non_blocking=device.type != "cpu")
            for field in fields(self)
            if (tensor := getattr(self, field.name)) is not None
        }
        return replace(self, **moved)


class FeatureBank:
    """Features by frame number. At most ``max_on_device`` frames, those used last, are kept on the device."""

    def __init__(self, device: torch.device, dtype: torch.dtype, max_on_device: int) -> None:
        self._device, self._dtype = device, dtype
        self._max_on_device = max_on_device
        self._on_device: OrderedDict[int, FrameFeatures] = OrderedDict()
        self._on_host: dict[int, FrameFeatures] = {}

    def put(self, frame: int, features: FrameFeatures, soon: bool = True) -> None:
        """Keep the features of a frame, in place of any before; on the device if they are needed ``soon``."""
        self._on_host.pop(frame, None)
        self._on_device.pop(frame, None)
        if soon:
            self._place(frame, features.to(self._device, self._dtype))
        else:
            self._on_host[frame] = features.to(torch.device("cpu"), self._dtype)

    def get(self, frame: int) -> FrameFeatures:
        """The features of a frame, on the device."""
        if frame in self._on_device:
            self._on_device.move_to_end(frame)
        else:
            self._place(frame, self._on_host[frame].to(self._device, self._dtype))
        return self._on_device[frame]

    @property
    def frames_on_device(self) -> int:
        return len(self._on_device)

    def fmaps(self, frames: Sequence[int]) -> Tensor:
        """Matching features [K, 128, h, w]."""
        return torch.stack([self.get(frame).fmap for frame in frames])

    def nets(self, frames: Sequence[int]) -> Tensor:
        """Hidden states to start with [K, 128, h, w]."""
        return torch.stack([self.get(frame).net for frame in frames])

    def inps(self, frames: Sequence[int]) -> Tensor:
        """Inputs of the update operator [K, 128, h, w]."""
        return torch.stack([self.get(frame).inp for frame in frames])

    def _place(self, frame: int, features: FrameFeatures) -> None:
        self._on_device[frame] = features
        if len(self._on_device) > self._max_on_device:
            oldest, leaving = self._on_device.popitem(last=False)
            # A frame that came back from the host is still there.
            if oldest not in self._on_host:
                self._on_host[oldest] = leaving.to(torch.device("cpu"), self._dtype)
