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

from dataclasses import dataclass
from typing import NamedTuple

import torch
from megasam_shared.errors import MegasamError
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.optical_flow import raft_large

from megasam_server.models.convex_upsampling import upsample_convex
from megasam_server.models.correlation import CorrelationVolume

SMALLEST_SIDE = 128
"""Pixels: below it the coarsest level of the correlation pyramid is less than two cells wide."""

HIDDEN = 128
"""Channels of the recurrent state, and as many of the context."""

RADIUS = 4
"""Cells on each side of the lookup window, at each of the 4 levels."""


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


class _Gates(NamedTuple):
    """One convolution pass of the recurrent unit, with what the context adds computed beforehand.

    Of the 384 input channels of each convolution (state, context, motion) the context's 128 are the
    same in every iteration.
    """

    update_reset: Tensor  # [256,256,kh,kw] weights of both gates for (state, motion)
    candidate: Tensor  # [128,256,kh,kw] weights of the candidate for (state, motion)
    update_reset_context: Tensor  # [B,256,h,w] context's share, bias included
    candidate_context: Tensor  # [B,128,h,w]

    @classmethod
    def prepare(cls, gru: nn.Module, context: Tensor) -> _Gates:
        """``gru`` is one ConvGRU of torchvision's recurrent block; ``context`` [B,128,h,w]."""
        changing, constant = _split_inputs(torch.cat([gru.convz.weight, gru.convr.weight]))
        bias = torch.cat([gru.convz.bias, gru.convr.bias])
        q_changing, q_constant = _split_inputs(gru.convq.weight)
        padding = gru.convq.padding
        return cls(
            changing,
            q_changing,
            F.conv2d(context, constant, bias, padding=padding),
            F.conv2d(context, q_constant, gru.convq.bias, padding=padding),
        )

    def step(self, hidden: Tensor, motion: Tensor) -> Tensor:
        """The next state [B,128,h,w] from this one and the motion features [B,128,h,w]."""
        padding = (self.candidate.shape[2] // 2, self.candidate.shape[3] // 2)
        gates = F.conv2d(torch.cat([hidden, motion], 1), self.update_reset, padding=padding)
        update, reset = torch.sigmoid(gates + self.update_reset_context).chunk(2, 1)
        candidate = F.conv2d(
            torch.cat([reset * hidden, motion], 1), self.candidate, padding=padding
        )
        return torch.lerp(hidden, torch.tanh(candidate + self.candidate_context), update)


def _split_inputs(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [C,384,kh,kw] over (state, context, motion) -> over (state, motion), over context."""
    state, context, motion = weight.split(HIDDEN, 1)
    return torch.cat([state, motion], 1), context


def _pixel_grid(like: Tensor) -> Tensor:
    """float32 [h,w,2]: (x, y) of each cell of ``like`` [...,h,w]."""
    rows, columns = (torch.arange(n, device=like.device) for n in like.shape[-2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1).float()


class RaftFlow(nn.Module):
    """Optical flow between encoded frames. Inference only; weights come from ``load_state_dict``.

    In half precision (``RaftFlow().half()``, float16 as in the reference; bfloat16 works too) the
    encoders, the correlation matrix and the update block are in that type; coordinates and flows stay
    float32. ``compile()`` compiles the update iteration, the part that repeats.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = raft_large(weights=None)
        # The running statistics of the official weights count, never those of a batch.
        self.eval().requires_grad_(False)

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
        # Scaled in float32: 2 x / 255 - 1 in half precision would lose the last bit of x.
        x = (images.float() * (2 / 255) - 1).to(weight.dtype)  # [B,3,H,W]
        x = x.contiguous(memory_format=torch.channels_last)
        fmap = self.network.feature_encoder(x)  # [B,256,h,w]
        hidden, context = self.network.context_encoder(x).split(HIDDEN, 1)  # [B,128,h,w] each
        return RaftFeatures(fmap, torch.tanh(hidden), torch.relu(context))

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
        volume = CorrelationVolume(source.fmap, target.fmap, radius=RADIUS)
        block = self.network.update_block.recurrent_block
        gates = [_Gates.prepare(gru, source.context) for gru in (block.convgru1, block.convgru2)]
        hidden = source.hidden  # [B,128,h,w]
        grid = _pixel_grid(hidden)  # [h,w,2]
        flow = torch.zeros(len(hidden), *grid.shape, device=grid.device)  # [B,h,w,2]
        if flow_init is not None:
            flow = flow + flow_init.permute(0, 2, 3, 1)
        for _ in range(iterations):
            correlation = volume.lookup(grid + flow)  # [B,324,h,w]
            hidden, delta = self(hidden, correlation, flow, *gates)
            flow = flow + delta
        low = flow.permute(0, 3, 1, 2)  # [B,2,h,w]
        mask = self.network.mask_predictor(hidden)  # [B,576,h,w], with RAFT's factor 0.25
        return Flow(low, upsample_convex(8 * low, mask))

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

    def forward(
        self, hidden: Tensor, correlation: Tensor, flow: Tensor, first: _Gates, second: _Gates
    ) -> tuple[Tensor, Tensor]:
        """One update: state [B,128,h,w], correlation [B,324,h,w], flow [B,h,w,2] -> the next state
        and what to add to the flow, float32 [B,h,w,2].
        """
        block = self.network.update_block
        seen = flow.permute(0, 3, 1, 2).to(hidden.dtype)  # [B,2,h,w]
        motion = block.motion_encoder(seen, correlation.to(hidden.dtype))  # [B,128,h,w]
        hidden = second.step(first.step(hidden, motion), motion)
        return hidden, block.flow_head(hidden).float().permute(0, 2, 3, 1)


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
