"""Features of frames: those used last on the device, the others in host memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrameFeatures:
    """What the network computes once for a frame that edges leave from, each [128, h, w].

    Attributes:
        fmap: matching features.
        net: hidden state that the edges start with.
        inp: input of the update operator.
    """

    fmap: Tensor
    net: Tensor
    inp: Tensor


class FrameTensors:
    """One tensor per frame, by frame number. At most ``max_on_device``, those used last, are kept on the device."""

    def __init__(self, device: torch.device, dtype: torch.dtype, max_on_device: int) -> None:
        self._device, self._dtype = device, dtype
        self._max_on_device = max_on_device
        self._on_device: OrderedDict[int, Tensor] = OrderedDict()
        self._on_host: dict[int, Tensor] = {}

    def put(self, frame: int, tensor: Tensor, soon: bool = True) -> None:
        """Keep the tensor of a frame, in place of any before; on the device if it is needed ``soon``."""
        self._on_host.pop(frame, None)
        self._on_device.pop(frame, None)
        if soon:
            self._place(frame, tensor)
        else:
            self._on_host[frame] = tensor.to("cpu", self._dtype)

    def get(self, frame: int) -> Tensor:
        """The tensor of a frame, on the device."""
        if frame in self._on_device:
            self._on_device.move_to_end(frame)
        else:
            self._place(frame, self._on_host[frame])
        return self._on_device[frame]

    def stack(self, frames: Sequence[int]) -> Tensor:
        """[K, ...] of frames, any of them more than once."""
        return torch.stack([self.get(frame) for frame in frames])

    def _place(self, frame: int, tensor: Tensor) -> None:
        on_device = self._device.type != "cpu"
        self._on_device[frame] = tensor.to(self._device, self._dtype, non_blocking=on_device)
        if len(self._on_device) > self._max_on_device:
            oldest, leaving = self._on_device.popitem(last=False)
            # A frame that came back from the host is still there.
            if oldest not in self._on_host:
                self._on_host[oldest] = leaving.to("cpu")


class FeatureBank:
    """:class:`FrameFeatures` of the frames. Each kind comes and goes by itself: targets of edges need no context."""

    def __init__(self, device: torch.device, dtype: torch.dtype, max_on_device: int) -> None:
        self.fmaps, self.nets, self.inps = (
            FrameTensors(device, dtype, max_on_device) for _ in range(3)
        )

    def put_context(self, frame: int, net: Tensor, inp: Tensor, soon: bool = True) -> None:
        """Keep what edges from this frame start with."""
        self.nets.put(frame, net, soon)
        self.inps.put(frame, inp, soon)
