"""RAFT's iterations, through the layers of torchvision's ``raft_large``: for inference and training.

What the context adds to the recurrent unit is computed once per flow, the convolutions of one input
run as one, and channels that tensor cores do not like are padded.

Shapes: B pairs, h = H/8, w = W/8 cells. Flows are (x, y) in cells, float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megasam_server.geometry.projective import pixel_grid
from megasam_server.models.convex_upsampling import upsample_convex
from megasam_server.models.correlation import CorrelationVolume
from megasam_server.models.pointwise import (
    bias_relu,
    blend_hidden,
    join,
    renew_hidden,
    reset_hidden,
)
from megasam_server.models.raft_encoder import HIDDEN

RADIUS = 4
"""Cells on each side of the lookup window, at each of the 4 levels."""

_LOOKUP_PADDING = 4


class Revision(NamedTuple):
    """Before or after an iteration: state [B,128,h,w] and flow [B,h,w,2]."""

    hidden: Tensor
    flow: Tensor


def revisions(
    network: nn.Module,
    volume: CorrelationVolume,
    start: Revision,
    context: Tensor,
    iterations: int,
) -> Iterator[Revision]:
    """The iterations of B flows, one after the other. Gradients stay within an iteration, but for
    those of state and context.

    Args:
        network: torchvision's.
        volume: of B pairs, with windows of :data:`RADIUS`.
        start: where the iterations begin.
        context: [B,128,h,w].
    """
    update = _Update(network.update_block, context)
    hidden, flow = start
    grid = pixel_grid(*hidden.shape[-2:], torch.float32, hidden.device)  # [h,w,2]
    for _ in range(iterations):
        flow = flow.detach()
        correlation = volume.lookup(grid + flow, _LOOKUP_PADDING)  # [B,328,h,w]
        hidden, delta = update(hidden, correlation.to(hidden.dtype), flow)
        flow = flow + delta
        yield Revision(hidden, flow)


def full_flow(network: nn.Module, revision: Revision) -> Tensor:
    """In pixels, float32 [B,2,8h,8w]."""
    predictor = network.mask_predictor
    first, last = predictor.convrelu[0], predictor.conv
    wide = bias_relu(_same(revision.hidden, first.weight), first.bias)  # [B,256,h,w]
    # RAFT multiplies the mask by 0.25: the weights are fewer.
    factor = predictor.multiplier
    mask = _same(wide, factor * last.weight, factor * last.bias)  # [B,576,h,w]
    return upsample_convex(8 * revision.flow.permute(0, 3, 1, 2), mask)


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
        self._corr2, self._flow2 = encoder.convcorr2[0], encoder.convflow2[0]
        self._head1 = head.conv1
        # Tensor cores want channels in multiples of 8: 324 of correlation, 2 of flow, 126 and 2 of
        # flow are not.
        self._corr1 = _channels_last(_padded(encoder.convcorr1[0].weight, inputs=_LOOKUP_PADDING))
        self._corr1_bias = encoder.convcorr1[0].bias
        self._flow1 = _channels_last(_padded(encoder.convflow1[0].weight, inputs=6))
        self._flow1_bias = encoder.convflow1[0].bias
        self._joint = _channels_last(_padded(encoder.conv[0].weight, outputs=2))
        self._joint_bias = encoder.conv[0].bias
        self._head2 = _channels_last(_padded(head.conv2.weight, outputs=6))
        self._head2_bias = head.conv2.bias
        gru = block.recurrent_block
        self._passes = _RecurrentPass(gru.convgru1, context), _RecurrentPass(gru.convgru2, context)

    def __call__(self, hidden: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """State [B,128,h,w], correlation [B,328,h,w], flow float32 [B,h,w,2] -> the next state, and
        what to add to the flow, float32 [B,h,w,2].
        """
        seen = F.pad(flow.to(hidden.dtype), (0, 6)).permute(0, 3, 1, 2)  # [B,8,h,w]
        joint = join([(hidden, None), *self._motion(correlation, seen)])  # [B,256,h,w]
        first, second = self._passes
        hidden = first(joint, hidden)
        hidden = second(renew_hidden(joint, hidden), hidden)
        wide = bias_relu(_same(hidden, self._head1.weight), self._head1.bias)  # [B,256,h,w]
        delta = _same(wide, self._head2)[:, :2].float().permute(0, 2, 3, 1)  # [B,h,w,2]
        return hidden, delta + self._head2_bias.float()

    def _motion(self, correlation: Tensor, seen: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """The motion features, [B,126,h,w] without bias and relu, and the flow [B,2,h,w]."""
        corr = bias_relu(_same(correlation, self._corr1), self._corr1_bias)  # [B,256,h,w]
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
