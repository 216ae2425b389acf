"""RAFT, the network of the optical flow stage (Teed and Deng 2020, arXiv:2003.12039).

The layers are torchvision's ``raft_large``; the weights are the official ones, whose key names are
converted in :mod:`megasam_server.models.raft_keys`. torchvision's own ``forward`` encodes both images
anew for every pair and upsamples after every iteration. Here each frame is encoded once and pairs share
the features, a flow may start from an earlier one, only the last flow is upsampled, and what the
context adds to the recurrent unit is computed once per flow.

Shapes: B pairs, H x W pixels, h = H/8, w = W/8. Flows are (x, y), forward: what is at p in the source
is at p + flow in the target.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import torch
from megasam_shared.errors import MegasamError
from torch import Tensor, nn
from torchvision.models.optical_flow import raft_large

from megasam_server.models.correlation import CorrelationVolume
from megasam_server.models.cuda_graph import Replayed
from megasam_server.models.raft_encoder import encoder_input, feature_map, first_state
from megasam_server.models.raft_update import RADIUS, Revision, full_flow, revisions

SMALLEST_SIDE = 128
"""Pixels: below it the coarsest level of the correlation pyramid is less than two cells wide."""


@dataclass(frozen=True)
class RaftFeatures:
    """What RAFT knows of B frames, whatever they are paired with.

    Attributes:
        fmap: [B,256,h,w] features that are correlated.
        hidden: [B,128,h,w] first recurrent state of a flow that starts in this frame.
        context: [B,128,h,w] features that guide every iteration of such a flow.
    """

    fmap: Tensor
    hidden: Tensor
    context: Tensor

    def __getitem__(self, frames: Tensor | slice | list[int]) -> RaftFeatures:
        """The features of some of the frames, in the order asked for."""
        return RaftFeatures(self.fmap[frames], self.hidden[frames], self.context[frames])

    @classmethod
    def cat(cls, parts: list[RaftFeatures]) -> RaftFeatures:
        """The frames of all parts, one after the other."""
        return cls(
            torch.cat([part.fmap for part in parts]),
            torch.cat([part.hidden for part in parts]),
            torch.cat([part.context for part in parts]),
        )


class Flow(NamedTuple):
    """Flow of B pairs: ``low`` [B,2,h,w] in 1/8 pixels, ``full`` [B,2,H,W] in pixels; float32."""

    low: Tensor
    full: Tensor


class RaftFlow(nn.Module):
    """Optical flow between encoded frames. Inference only; weights come from ``load_state_dict``.

    In half precision (``RaftFlow().half()``, float16 as in the reference; bfloat16 works too) the
    encoders, the correlation matrix and the update block are in that type; coordinates and flows stay
    float32. Nothing waits for the device: a call can be captured in a CUDA graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = raft_large(weights=None).to(memory_format=torch.channels_last)
        # The running statistics of the official weights count, never those of a batch.
        self.eval().requires_grad_(False)
        self._recorded: dict[tuple[int, ...], _Recorded] = {}

    def _apply(self, fn, recurse: bool = True):
        """``to`` and its kin: weights move, and what was recorded would look for them in vain."""
        self.finish()
        return super()._apply(fn, recurse)

    def finish(self) -> None:
        """All flows are computed: hand back what was kept for more of the same shapes."""
        self._recorded.clear()

    @torch.no_grad()
    def encode(self, images: Tensor) -> RaftFeatures:
        """Features of frames, each encoded once however many pairs it is in.

        Args:
            images: RGB [B,3,H,W], 0..255, uint8 or floating; H and W multiples of 8, at least 128.

        Raises:
            MegasamError: ``frame_too_small`` or ``frame_size_not_multiple`` for another size.
        """
        _check_size(images.shape[-2], images.shape[-1])
        weight = next(self.network.parameters())
        pictures = encoder_input(images, weight.dtype)  # [B,3,H,W]
        fmap = feature_map(self.network, pictures)  # [B,256,h,w]
        return RaftFeatures(fmap, *first_state(self.network, pictures))

    @torch.no_grad()
    def flow(
        self,
        source: RaftFeatures,
        target: RaftFeatures,
        iterations: int = 22,
        flow_init: Tensor | None = None,
    ) -> Flow:
        """Flow from the B frames of ``source`` to those of ``target``.

        Args:
            flow_init: [B,2,h,w] where to start, in 1/8 pixels; zero without it.
        """
        if flow_init is None:
            flow_init = torch.zeros_like(source.fmap[:, :2], dtype=torch.float32)
        if not source.fmap.is_cuda:
            return self._iterated(source, target.fmap, flow_init, iterations)
        kind = (*source.fmap.shape, iterations)
        if kind not in self._recorded:
            self._recorded[kind] = _Recorded(self, source, target.fmap, flow_init, iterations)
        return self._recorded[kind](source, target.fmap, flow_init)

    def _iterated(
        self, source: RaftFeatures, target_fmap: Tensor, flow_init: Tensor, iterations: int
    ) -> Flow:
        volume = CorrelationVolume(source.fmap, target_fmap, radius=RADIUS)
        start = Revision(source.hidden, flow_init.permute(0, 2, 3, 1))
        steps = revisions(self.network, volume, start, source.context, iterations)
        (last,) = deque(steps, maxlen=1)
        return Flow(last.flow.permute(0, 3, 1, 2), full_flow(self.network, last))

    @torch.no_grad()
    def flow_both_ways(
        self,
        a: RaftFeatures,
        b: RaftFeatures,
        iterations: int = 22,
        init_ab: Tensor | None = None,
        init_ba: Tensor | None = None,
    ) -> tuple[Flow, Flow]:
        """Flows a -> b and b -> a of B pairs, iterated together as one batch of 2B.

        The correlation matrices are transposes of each other; in half precision to multiply again
        takes no longer than to transpose, and in float32 it is under 1 % of the time.

        Args:
            init_ab: [B,2,h,w] where a -> b starts, in 1/8 pixels; zero without it. ``init_ba`` likewise.
        """
        flow_init = None
        if init_ab is not None or init_ba is not None:
            none = torch.zeros_like(a.fmap[:, :2], dtype=torch.float32)
            flow_init = torch.cat([none if init is None else init for init in (init_ab, init_ba)])
        both = self.flow(RaftFeatures.cat([a, b]), RaftFeatures.cat([b, a]), iterations, flow_init)
        count = len(a.fmap)
        return Flow(both.low[:count], both.full[:count]), Flow(both.low[count:], both.full[count:])


class _Recorded:
    """:meth:`RaftFlow.flow` for pairs of one shape, on CUDA: its many small kernels as one graph.

    Takes what the first pairs are as room for all that follow.
    """

    def __init__(
        self,
        raft: RaftFlow,
        source: RaftFeatures,
        target_fmap: Tensor,
        flow_init: Tensor,
        iterations: int,
    ) -> None:
        self._room = [x.clone() for x in _tensors(source, target_fmap, flow_init)]
        self._found: Flow | None = None

        def work() -> None:
            fmap, hidden, context, target, start = self._room
            found = raft._iterated(RaftFeatures(fmap, hidden, context), target, start, iterations)
            if self._found is None:
                self._found = found
            else:
                for old, new in zip(self._found, found, strict=True):
                    old.copy_(new)

        self._work = Replayed(work, target_fmap.device)

    def __call__(self, source: RaftFeatures, target_fmap: Tensor, flow_init: Tensor) -> Flow:
        for room, given in zip(self._room, _tensors(source, target_fmap, flow_init), strict=True):
            room.copy_(given)
        self._work()
        return Flow(*(x.clone() for x in self._found))


def _tensors(source: RaftFeatures, target_fmap: Tensor, flow_init: Tensor) -> tuple[Tensor, ...]:
    return source.fmap, source.hidden, source.context, target_fmap, flow_init


def _check_size(height: int, width: int) -> None:
    if min(height, width) < SMALLEST_SIDE:
        raise MegasamError(
            "frame_too_small",
            f"Optical flow needs frames of {SMALLEST_SIDE} pixels or more on each side; "
            f"these are {width}x{height}.",
            "Raise the tracking resolution, or use a larger plate.",
        )
    if height % 8 or width % 8:
        raise MegasamError(
            "frame_size_not_multiple",
            f"Optical flow needs frame sizes that are multiples of 8; these are {width}x{height}.",
            "Resize the frames by the tracker's rule before computing flow.",
        )
