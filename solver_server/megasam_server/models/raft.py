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

from megasam_server.geometry.projective import pixel_grid
from megasam_server.models.convex_upsampling import upsample_convex
from megasam_server.models.correlation import CorrelationVolume
from megasam_server.models.cuda_graph import Replayed
from megasam_server.models.pointwise import bias_relu, blend_hidden, join, reset_hidden

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


class _RecurrentPass:
    """One pass of the recurrent unit, for flows that start in frames with this context.

    Of the 384 input channels of each convolution (state, context, motion) the context's 128 are the
    same in every iteration: what they add is computed once. The two gates are one convolution.

    Args:
        gru: one ConvGRU of torchvision's recurrent block.
        context: [B,128,h,w].
    """

    def __init__(self, gru: nn.Module, context: Tensor) -> None:
        convs = (gru.convz, gru.convr, gru.convq)
        weights = torch.cat([conv.weight for conv in convs])  # [384,384,kh,kw]
        state, constant, motion = weights.split(HIDDEN, 1)
        changing = torch.cat([state, motion], 1)  # [384,256,kh,kw]
        self._gates, self._candidate = map(_channels_last, changing.split([2 * HIDDEN, HIDDEN]))
        bias = torch.cat([conv.bias for conv in convs])  # [384]
        self._context = _same(context, _channels_last(constant), bias)  # [B,384,h,w]

    def __call__(self, joint: Tensor, hidden: Tensor) -> Tensor:
        """The next state [B,128,h,w] from this one and ``joint`` [B,256,h,w], state and motion."""
        gates = _same(joint, self._gates)  # [B,256,h,w]
        joint = reset_hidden(joint, gates, self._context, hidden)  # [B,256,h,w]
        candidate = _same(joint, self._candidate)  # [B,128,h,w]
        return blend_hidden(gates, self._context, candidate, hidden)


class _Update:
    """RAFT's update, its weights laid out for many iterations on a GPU.

    Args:
        block: torchvision's update block.
        context: [B,128,h,w].
    """

    def __init__(self, block: nn.Module, context: Tensor) -> None:
        encoder, head = block.motion_encoder, block.flow_head
        self._corr1, self._corr2 = encoder.convcorr1[0], encoder.convcorr2[0]
        self._flow2, self._head1 = encoder.convflow2[0], head.conv1
        # Tensor cores want channels in multiples of 8: 2 of flow, 126 and 2 of flow are not.
        self._flow1 = _channels_last(_padded(encoder.convflow1[0].weight, inputs=6))
        self._flow1_bias = encoder.convflow1[0].bias
        self._joint = _channels_last(_padded(encoder.conv[0].weight, outputs=2))
        self._joint_bias = encoder.conv[0].bias
        self._head2 = _channels_last(_padded(head.conv2.weight, outputs=6))
        self._head2_bias = head.conv2.bias
        gru = block.recurrent_block
        self._passes = _RecurrentPass(gru.convgru1, context), _RecurrentPass(gru.convgru2, context)

    def __call__(self, hidden: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """State [B,128,h,w], correlation [B,324,h,w], flow float32 [B,h,w,2] -> the next state, and
        what to add to the flow, float32 [B,h,w,2].
        """
        seen = F.pad(flow.to(hidden.dtype), (0, 6)).permute(0, 3, 1, 2)  # [B,8,h,w]
        joint = join([(hidden, None), *self._motion(correlation, seen)])  # [B,256,h,w]
        first, second = self._passes
        hidden = first(joint, hidden)
        joint[:, :HIDDEN] = hidden
        hidden = second(joint, hidden)
        wide = bias_relu(_same(hidden, self._head1.weight), self._head1.bias)  # [B,256,h,w]
        delta = _same(wide, self._head2)[:, :2].float().permute(0, 2, 3, 1)  # [B,h,w,2]
        return hidden, delta + self._head2_bias.float()

    def _motion(self, correlation: Tensor, seen: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """The motion features, [B,126,h,w] without bias and relu, and the flow [B,2,h,w]."""
        corr = bias_relu(_same(correlation, self._corr1.weight), self._corr1.bias)  # [B,256,h,w]
        corr = _same(corr, self._corr2.weight)  # [B,192,h,w]
        flow = bias_relu(_same(seen, self._flow1), self._flow1_bias)  # [B,128,h,w]
        flow = _same(flow, self._flow2.weight)  # [B,64,h,w]
        both = join([(corr, self._corr2.bias), (flow, self._flow2.bias)])  # [B,256,h,w]
        motion = _same(both, self._joint)  # [B,128,h,w], the last two zero
        return [(motion[:, : HIDDEN - 2], self._joint_bias), (seen[:, :2], None)]


def _same(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution that keeps height and width; sides of the kernel are odd."""
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2))


def _padded(weight: Tensor, inputs: int = 0, outputs: int = 0) -> Tensor:
    """Weights [O,I,kh,kw] with that many zero channels after the last ones."""
    return F.pad(weight, (0, 0, 0, 0, 0, inputs, 0, outputs))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


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
        # Scaled in float32: 2 x / 255 - 1 in half precision would lose the last bit of x.
        x = (images.float() * (2 / 255) - 1).to(weight.dtype)  # [B,3,H,W]
        x = _channels_last(x)
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
        update = _Update(self.network.update_block, source.context)
        hidden = source.hidden  # [B,128,h,w]
        grid = pixel_grid(*hidden.shape[-2:], torch.float32, hidden.device)  # [h,w,2]
        flow = flow_init.permute(0, 2, 3, 1)  # [B,h,w,2]
        for _ in range(iterations):
            correlation = volume.lookup(grid + flow)  # [B,324,h,w]
            hidden, delta = update(hidden, correlation.to(hidden.dtype), flow)
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
