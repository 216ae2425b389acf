"""Features of frames: those used last on the device, the others in host memory or computed when they are needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megasam_server.tracking.dense_slam.frames import FrameSource, TrackingFrame
from megasam_server.tracking.dense_slam.network import TrackingNetwork

# Frames that go through an encoder at a time.
_BATCH = 8


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
    """One tensor [C, h, w] per frame, by number. At most ``max_on_device``, those used last, are kept on the device.

    All *lasting* tensors are kept, and of the others the last ``max_passing`` that were put.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, max_on_device: int, max_passing: int
    ) -> None:
        self._device, self._dtype = device, dtype
        self._max_on_device, self._max_passing = max_on_device, max_passing
        self._on_device: OrderedDict[int, Tensor] = OrderedDict()
        self._on_host: dict[int, Tensor] = {}
        self._passing: OrderedDict[int, None] = OrderedDict()

    def missing(self, frames: Iterable[int]) -> list[int]:
        """Those of the frames that have no tensor here; those that have one keep it as if it were put now."""
        missing = []
        for frame in frames:
            if frame in self._passing:
                self._passing.move_to_end(frame)
            elif frame not in self._on_device and frame not in self._on_host:
                missing.append(frame)
        return missing

    def put(self, frame: int, tensor: Tensor, soon: bool = True, lasting: bool = True) -> None:
        """Keep the tensor of a frame, in place of any before; on the device if it is needed ``soon``."""
        self.drop(frame)
        if soon:
            self._place(frame, tensor)
        else:
            self._on_host[frame] = tensor.to("cpu", self._dtype)
        if not lasting:
            self.make_passing(frame)

    def get(self, frame: int) -> Tensor:
        """The tensor of a frame, on the device."""
        if frame in self._on_device:
            self._on_device.move_to_end(frame)
        else:
            self._place(frame, self._on_host[frame])
        return self._on_device[frame]

    def stack(self, frames: Sequence[int]) -> Tensor:
        """[K, C, h, w] of frames, any of them more than once; channels last in memory, as the network wants them."""
        rows = [self.get(frame).movedim(0, -1) for frame in frames]
        return torch.stack(rows).movedim(-1, 1)

    def drop(self, frame: int) -> None:
        """Forget the tensor of a frame, if there is one."""
        for tensors in (self._on_host, self._on_device, self._passing):
            tensors.pop(frame, None)

    def make_lasting(self, frame: int) -> None:
        """Keep the tensor of a frame from now on."""
        self._passing.pop(frame, None)

    def make_passing(self, frame: int) -> None:
        """Keep the tensor of a frame no longer than those that are put from now on."""
        self._passing[frame] = None
        if len(self._passing) > self._max_passing:
            self.drop(next(iter(self._passing)))

    def lasting(self) -> set[int]:
        """Frames whose tensors are kept."""
        return (self._on_device.keys() | self._on_host.keys()) - self._passing.keys()

    def _place(self, frame: int, tensor: Tensor) -> None:
        on_device = self._device.type != "cpu"
        self._on_device[frame] = tensor.to(self._device, self._dtype, non_blocking=on_device)
        if len(self._on_device) > self._max_on_device:
            oldest, leaving = self._on_device.popitem(last=False)
            # A frame that came back from the host is still there.
            if oldest not in self._on_host:
                self._on_host[oldest] = leaving.to("cpu")


class FeatureBank:
    """:class:`FrameFeatures` of the frames. Each kind comes and goes by itself: targets of edges need no context.

    Those of keyframes are kept. Those of other frames are computed when they are asked for, and kept for as long as
    they are among the last few.
    """

    def __init__(
        self,
        frames: FrameSource,
        network: TrackingNetwork,
        device: torch.device,
        dtype: torch.dtype,
        max_on_device: int,
        max_passing: int,
    ) -> None:
        """
        Args:
            dtype: how they are stored.
            max_on_device: frames whose features may be on the device.
            max_passing: frames beside the keyframes whose features are kept; the most that may be required at a time.
        """
        self._frames, self._network, self._device, self._dtype = frames, network, device, dtype
        self.fmaps, self.nets, self.inps = (
            FrameTensors(device, dtype, max_on_device, max_passing) for _ in range(3)
        )

    def features(self, frames: Sequence[TrackingFrame]) -> Tensor:
        """Matching features [K, 128, h, w] of frames, computed now."""
        return self._network.features(self._images(frames)).to(self._dtype)

    def context(self, frames: Sequence[TrackingFrame]) -> tuple[Tensor, Tensor]:
        """Hidden states and inputs, [K, 128, h, w] each, of frames, computed now."""
        net, inp = self._network.context(self._images(frames))
        return net.to(self._dtype), inp.to(self._dtype)

    def put_context(self, number: int, net: Tensor, inp: Tensor) -> None:
        """Keep what edges from a keyframe start with, and its matching features."""
        self.fmaps.make_lasting(number)
        self.nets.put(number, net)
        self.inps.put(number, inp)

    def keep_only(self, keyframes: Iterable[int]) -> None:
        """What other frames have is not kept any longer."""
        keyframes = set(keyframes)
        for number in self.fmaps.lasting() - keyframes:
            self.fmaps.make_passing(number)
        for tensors in (self.nets, self.inps):
            for number in tensors.lasting() - keyframes:
                tensors.drop(number)

    def require_fmaps(self, numbers: Sequence[int]) -> None:
        """See to it that the matching features of these frames are there."""
        self._require((self.fmaps,), numbers, lambda frames: (self.features(frames),))

    def require_contexts(self, numbers: Sequence[int]) -> None:
        """See to it that what edges from these frames start with is there."""
        self._require((self.nets, self.inps), numbers, self.context)

    def _require(
        self,
        kinds: tuple[FrameTensors, ...],
        numbers: Sequence[int],
        compute: Callable[[list[TrackingFrame]], tuple[Tensor, ...]],
    ) -> None:
        missing = [tensors.missing(numbers) for tensors in kinds][0]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            computed = compute([self._frames[number] for number in batch])
            for tensors, of_frames in zip(kinds, computed, strict=True):
                for number, tensor in zip(batch, of_frames, strict=True):
                    # A part of the batch would keep all of it alive.
                    tensors.put(number, tensor.clone(), lasting=False)

    def _images(self, frames: Sequence[TrackingFrame]) -> Tensor:
        return torch.stack([frame.image for frame in frames]).to(self._device)
