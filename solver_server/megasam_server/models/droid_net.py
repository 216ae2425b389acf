"""The tracking network of MegaSaM: DROID-SLAM's, with a branch that says what stands still.

Two encoders make features at 1/8 scale. The update operator then revises, for every edge (a pair of
frames i -> j), where the pixels of i are in j, with a recurrent state per edge. Teed and Deng,
"DROID-SLAM", 2021, section 3; Li et al., "MegaSaM", 2025, section 3. The module tree has the key
names of the official checkpoint. Steps that are equal and cheaper than the network as drawn:

- convolutions of the same input run as one (update and reset gate; first layers of two heads);
- what the context adds to the gates is computed once for all edges of a frame and all updates;
- the mean of the state, broadcast over the image in the motion branch, is convolved as 3x3 pixels;
- what all edges of a frame add to their logits is convolved once for each frame;
- means over edges are a product with a 0/1 matrix.

``DroidNet.to(torch.float16)`` (or bfloat16) gives the half path, without autocast: convolutions in
half precision; instance and layer norms, sigmoids of the outputs, softmax and means in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from megasam_server.models.correlation import LOOKUP_CHANNELS
from megasam_server.models.image_input import imagenet_normalised, unit_range
from megasam_server.models.pointwise import (
    SharedMaps,
    bias_relu,
    blend_hidden,
    gated_mean,
    instance_norm,
    join,
    norm_gelu,
    reset_hidden,
    shared_gelu,
)

HIDDEN = 128
MOTION_CHANNELS = 4
UPMASK_CHANNELS = 9 * 8 * 8
INSTANCE_EPS = 1e-5

_ETA_SCALE = 0.01
_ALIGNED_CHANNELS = 8  # tensor cores want channels in multiples of 8


@dataclass(frozen=True)
class EdgeSources:
    """Which edges leave from the same frame. Make it once per change of the edges: it waits for
    the device, an update that is given one does not.

    Attributes:
        frames: int64 [U], the source frames, ascending.
        index: int64 [E], place of each edge's source in ``frames``.
        members: float32 [U,E], 1 where edge e leaves from frame u.
    """

    frames: torch.Tensor
    index: torch.Tensor
    members: torch.Tensor

    @classmethod
    def of(cls, ii: torch.Tensor) -> EdgeSources:
        """From the source frame of every edge, int64 [E]."""
        frames, index = torch.unique(ii, return_inverse=True)
        members = (torch.arange(len(frames), device=ii.device)[:, None] == index).float()
        return cls(frames, index, members)

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Mean of ``x`` [E,C,h,w] over the edges of each frame -> [U,C,h,w]."""
        edges, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(edges, -1)  # [E,h*w*C]
        sums = self.members.to(x.dtype) @ rows  # [U,h*w*C]
        counts = self.members.sum(dim=1, keepdim=True)  # [U,1]
        means = (sums / counts.to(x.dtype)).view(-1, height, width, channels)  # [U,h,w,C]
        return means.permute(0, 3, 1, 2)


class UpdateOutput(NamedTuple):
    """One revision of E edges from U source frames. Float32 except ``net`` and ``upmask``.

    Attributes:
        net: [E,128,h,w], the new hidden state.
        delta: [E,h,w,2], revision (x, y) of the flow, pixels at 1/8 scale.
        weight: [E,h,w,2], confidence of x and y, 0 to 1.
        eta: [U,h,w], damping of the disparities of each source frame (ascending), > 0; None, as
            all that follow, when no source frames were given.
        upmask: [U,576,h,w], logits for convex upsampling; None when not asked for.
        motion_weight: [E,h,w,2], ``weight`` times ``static_probability``: the weight of bundle
            adjustment.
        static_probability: [E,h,w], 1 where the pixel stands still.
    """

    net: torch.Tensor
    delta: torch.Tensor
    weight: torch.Tensor
    eta: torch.Tensor | None = None
    upmask: torch.Tensor | None = None
    motion_weight: torch.Tensor | None = None
    static_probability: torch.Tensor | None = None


def _without_bias(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """The convolution, its bias left to the pointwise step that follows."""
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding)


def _conv_relu(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return bias_relu(_without_bias(conv, x), conv.bias)


def _narrow(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The convolution [E,I,h,w] -> float32 [E,O,h,w] for O that are few."""
    outputs = len(weight)
    weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, -outputs % _ALIGNED_CHANNELS))
    x = F.conv2d(x, weight, padding=weight.shape[2] // 2)[:, :outputs]  # [E,O,h,w]
    return x.float() + bias.float()[:, None, None]


def _same(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    """A convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


# --------------------------------------------------------------------------------------- encoders


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a short cut; both norms have no parameters, or there are none."""

    def __init__(self, inputs: int, outputs: int, stride: int, normed: bool) -> None:
        super().__init__()
        self.normed = normed
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = _same(outputs, outputs)
        self.downsample = (
            None if stride == 1 else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = _norm_relu(self.conv1, x, self.normed)  # [B,outputs,h/stride,w/stride]
        y = _norm_relu(self.conv2, y, self.normed)  # [B,outputs,h/stride,w/stride]
        if self.downsample is not None:
            conv = self.downsample[0]  # to [B,outputs,h/stride,w/stride]
            x = _normed(conv, x, relu=False) if self.normed else conv(x)
        return F.relu(x + y)


def _norm_relu(conv: nn.Conv2d, x: torch.Tensor, normed: bool) -> torch.Tensor:
    return _normed(conv, x, relu=True) if normed else _conv_relu(conv, x)


def _normed(conv: nn.Conv2d, x: torch.Tensor, relu: bool) -> torch.Tensor:
    """The convolution's instance norm, which takes away any bias."""
    return instance_norm(_without_bias(conv, x), INSTANCE_EPS, relu)


class _Encoder(nn.Module):
    """RGB [B,3,H,W], normalised -> [B,outputs,H/8,W/8]."""

    def __init__(self, outputs: int, normed: bool) -> None:
        super().__init__()
        self.normed = normed
        self.conv1 = nn.Conv2d(3, 32, 7, stride=2, padding=3)
        self.layer1 = self._layer(32, 32, 1)
        self.layer2 = self._layer(32, 64, 2)
        self.layer3 = self._layer(64, 128, 2)
        self.conv2 = nn.Conv2d(128, outputs, 1)

    def _layer(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            _ResidualBlock(inputs, outputs, stride, self.normed),
            _ResidualBlock(outputs, outputs, 1, self.normed),
        )

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        x = _norm_relu(self.conv1, rgb, self.normed)  # [B,32,H/2,W/2]
        x = self.layer1(x)  # [B,32,H/2,W/2]
        x = self.layer2(x)  # [B,64,H/4,W/4]
        x = self.layer3(x)  # [B,128,H/8,W/8]
        return self.conv2(x)  # [B,outputs,H/8,W/8]


# --------------------------------------------------------------------------------- update operator


class _ConvGRU(nn.Module):
    """A gated recurrent unit of 3x3 convolutions that also sees the mean of its own state."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.convz = _same(HIDDEN + inputs, HIDDEN)
        self.convr = _same(HIDDEN + inputs, HIDDEN)
        self.convq = _same(HIDDEN + inputs, HIDDEN)
        self.w = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.convz_glo = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.convr_glo = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.convq_glo = nn.Conv2d(HIDDEN, HIDDEN, 1)

    def source_inputs(self, inp: torch.Tensor) -> SharedMaps:
        """Of context inputs [U,128,h,w]: an edge for each."""
        convs = (self.convz, self.convr, self.convq)
        weight = torch.cat([_split(conv.weight)[0] for conv in convs])  # [384,128,3,3]
        maps = F.conv2d(inp, weight, padding=1)  # [U,384,h,w]
        return SharedMaps(maps, torch.arange(len(inp), device=inp.device))

    def forward(self, h: torch.Tensor, hx: torch.Tensor, inputs: SharedMaps) -> torch.Tensor:
        """h [E,128,h,w]; hx [E,320,h,w] is h, then the inputs that are not of the context, and is
        used up.
        """
        context = self._context(h)  # [E,384]
        gates = torch.cat([_split(conv.weight)[1] for conv in (self.convz, self.convr)])
        zr = F.conv2d(hx, gates, padding=1)  # [E,256,h,w]
        rhx = reset_hidden(hx, zr, context, h, inputs)  # [E,320,h,w]
        q = F.conv2d(rhx, _split(self.convq.weight)[1], padding=1)  # [E,128,h,w]
        return blend_hidden(zr, context, q, h, inputs)  # [E,128,h,w]

    def _context(self, h: torch.Tensor) -> torch.Tensor:
        """Bias and global context of z, r and q: [E,384]."""
        mean = gated_mean(_without_bias(self.w, h), self.w.bias, h)  # [E,128]
        local = (self.convz, self.convr, self.convq)
        globe = (self.convz_glo, self.convr_glo, self.convq_glo)
        weight = torch.cat([conv.weight for conv in globe]).flatten(1)  # [384,128]
        bias = torch.cat([conv.bias for conv in local])  # [384]
        bias = bias + torch.cat([conv.bias for conv in globe])  # [384]
        return F.linear(mean, weight, bias)


def _split(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight for [state, context, rest] as one for the context and one for [state, rest]."""
    state, context, rest = weight.tensor_split([HIDDEN, 2 * HIDDEN], dim=1)
    return context, torch.cat([state, rest], dim=1)


class _GraphAggregation(nn.Module):
    """What all edges of a source frame say together: damping and upsampling mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _same(HIDDEN, HIDDEN)
        self.conv2 = _same(HIDDEN, HIDDEN)
        self.eta = nn.Sequential(_same(HIDDEN, 1))
        self.upmask = nn.Sequential(nn.Conv2d(HIDDEN, UPMASK_CHANNELS, 1))

    def forward(
        self, net: torch.Tensor, sources: EdgeSources, with_upmask: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """net [E,128,h,w] -> eta float32 [U,h,w], upmask [U,576,h,w] or None."""
        x = sources.mean(_conv_relu(self.conv1, net))  # [U,128,h,w]
        x = _conv_relu(self.conv2, x)  # [U,128,h,w]
        eta = _ETA_SCALE * F.softplus(self.eta(x).float()[:, 0])  # [U,h,w]
        return eta, self.upmask(x) if with_upmask else None


class _MotionBranch(nn.Module):
    """Probability that a pixel stands still, from the state, its mean, and the confidence.

    ``conv4``, ``norm_4`` and ``eta`` belong to a second damping that nothing reads. They are here
    because the official file has them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = _same(2 * HIDDEN + 2, HIDDEN)
        self.conv1 = _same(HIDDEN, HIDDEN)
        self.conv3 = _same(HIDDEN, HIDDEN)
        self.conv4 = _same(HIDDEN + 1, HIDDEN + 1)
        self.conv5 = _same(HIDDEN, HIDDEN)
        self.norm_0 = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.norm_1 = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.norm_3 = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.norm_4 = nn.LayerNorm(HIDDEN + 1, eps=1e-6)
        self.norm_5 = nn.LayerNorm(HIDDEN, eps=1e-6)
        self.eta = nn.Sequential(_same(HIDDEN + 1, HIDDEN), nn.GELU(), _same(HIDDEN, 1))
        self.logits_2 = nn.Sequential(_same(HIDDEN, HIDDEN), nn.GELU(), _same(HIDDEN, 1))

    def forward(
        self, net: torch.Tensor, weight: torch.Tensor, sources: EdgeSources
    ) -> torch.Tensor:
        """net [E,128,h,w], weight [E,2,h,w] -> float32 [E,h,w]."""
        x, shift = self._first_layer(net, weight)  # [E,128,h,w], [E,128,3,3]
        x = norm_gelu(x, shift, self.norm_0)  # [E,128,h,w]
        x = norm_gelu(_without_bias(self.conv1, x), self.conv1.bias, self.norm_1, x)
        x = norm_gelu(_without_bias(self.conv3, x), self.conv3.bias, self.norm_3, x)
        together = sources.mean(x)  # [U,128,h,w]
        together = _without_bias(self.conv5, together)  # [U,128,h,w]
        together = norm_gelu(together, self.conv5.bias, self.norm_5)  # [U,128,h,w]
        # The first layer of the sum is the sum of the first layers.
        first, _, last = self.logits_2
        shared = SharedMaps(_without_bias(first, together), sources.index)
        x = shared_gelu(_without_bias(first, x), first.bias, shared)  # [E,128,h,w]
        x = _narrow(x, last.weight, last.bias)  # [E,1,h,w]
        return torch.sigmoid(x[:, 0])  # [E,h,w]

    def _first_layer(
        self, net: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """conv0 of [net, mean of net, weight] as a sum: without the mean [E,128,h,w], and the mean
        with the bias, [E,128,3,3] (see :func:`norm_gelu`).
        """
        of_net, of_mean, of_weight = self.conv0.weight.split([HIDDEN, HIDDEN, 2], dim=1)
        padding = -(HIDDEN + 2) % _ALIGNED_CHANNELS
        kernel = F.pad(torch.cat([of_net, of_weight], dim=1), (0, 0, 0, 0, 0, padding))
        varied = join([(net, None), (weight, None)], padding)  # [E,136,h,w]
        mean = net.mean(dim=(2, 3), keepdim=True)  # [E,128,1,1]
        constant = F.conv2d(mean.expand(-1, -1, 3, 3), of_mean, self.conv0.bias, padding=1)
        return F.conv2d(varied, kernel, padding=1), constant


class _UpdateOperator(nn.Module):
    """See :meth:`DroidNet.update`, which is this module."""

    def __init__(self) -> None:
        super().__init__()
        self.corr_encoder = nn.Sequential(
            nn.Conv2d(LOOKUP_CHANNELS, HIDDEN, 1), nn.ReLU(), _same(HIDDEN, HIDDEN), nn.ReLU()
        )
        self.flow_encoder = nn.Sequential(
            _same(MOTION_CHANNELS, HIDDEN, 7), nn.ReLU(), _same(HIDDEN, 64), nn.ReLU()
        )
        self.weight = nn.Sequential(_same(HIDDEN, HIDDEN), nn.ReLU(), _same(HIDDEN, 2))
        self.delta = nn.Sequential(_same(HIDDEN, HIDDEN), nn.ReLU(), _same(HIDDEN, 2))
        self.gru = _ConvGRU(inputs=HIDDEN + 128 + 64)
        self.agg = _GraphAggregation()
        self.agg_motion = _MotionBranch()

    def forward(
        self,
        net: torch.Tensor,
        inp: torch.Tensor | SharedMaps,
        corr: torch.Tensor,
        motion: torch.Tensor | None = None,
        ii: torch.Tensor | EdgeSources | None = None,
        with_upmask: bool = True,
    ) -> UpdateOutput:
        if motion is None:
            motion = net.new_zeros(net.shape[0], MOTION_CHANNELS, *net.shape[2:])
        dtype = self.gru.convq.weight.dtype
        net, corr, motion = (_prepared(x, dtype) for x in (net, corr, motion))
        inputs = inp if isinstance(inp, SharedMaps) else self.source_inputs(inp)

        corr = _conv_relu(self.corr_encoder[0], corr)  # [E,128,h,w]
        flow = _conv_relu(self.flow_encoder[0], motion)  # [E,128,h,w]
        hx = join(
            [
                (net, None),  # 128 channels
                (_without_bias(self.corr_encoder[2], corr), self.corr_encoder[2].bias),  # 128
                (_without_bias(self.flow_encoder[2], flow), self.flow_encoder[2].bias),  # 64
            ]
        )  # [E,320,h,w]
        net = self.gru(net, hx, inputs)  # [E,128,h,w]

        delta, weight = self._heads(net)  # float32 [E,2,h,w] each
        output = UpdateOutput(net, delta.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1))
        if ii is None:
            return output
        sources = ii if isinstance(ii, EdgeSources) else EdgeSources.of(ii)
        eta, upmask = self.agg(net, sources, with_upmask)  # [U,h,w], [U,576,h,w]
        static = self.agg_motion(net, weight.to(dtype), sources)  # [E,h,w]
        return output._replace(
            eta=eta,
            upmask=upmask,
            motion_weight=static[..., None] * output.weight,
            static_probability=static,
        )

    def source_inputs(self, inp: torch.Tensor) -> SharedMaps:
        """See :meth:`DroidNet.source_inputs`."""
        return self.gru.source_inputs(_prepared(inp, self.gru.convq.weight.dtype))

    def _heads(self, net: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """net [E,128,h,w] -> delta, weight, float32 [E,2,h,w] each."""
        first = torch.cat([self.delta[0].weight, self.weight[0].weight])  # [256,128,3,3]
        bias = torch.cat([self.delta[0].bias, self.weight[0].bias])  # [256]
        x = bias_relu(F.conv2d(net, first, padding=1), bias)  # [E,256,h,w]
        # The second layers as one, with zeros where a head does not see the other's channels: to
        # take the channels apart would copy them.
        last = torch.cat(
            [
                F.pad(self.delta[2].weight, (0, 0, 0, 0, 0, HIDDEN)),  # [2,256,3,3]
                F.pad(self.weight[2].weight, (0, 0, 0, 0, HIDDEN, 0)),  # [2,256,3,3]
            ]
        )  # [4,256,3,3]
        x = _narrow(x, last, torch.cat([self.delta[2].bias, self.weight[2].bias]))  # [E,4,h,w]
        delta, weight = x.split(2, dim=1)  # [E,2,h,w] each
        return delta, torch.sigmoid(weight)


def _prepared(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------- the network


class DroidNet(nn.Module):
    """Features, context and update operator; see the module's docstring.

    ``update(net, inp, corr, motion=None, ii=None, with_upmask=True) -> UpdateOutput`` revises E
    edges. Tensors of any float dtype and device of the network's weights:

    - net [E,128,h,w], hidden state;
    - inp [E,128,h,w], context of each edge's source frame, or :meth:`source_inputs` of it;
    - corr [E,196,h,w], windows of the correlation (:mod:`megasam_server.models.correlation`);
    - motion [E,4,h,w], flow (x, y) and residual (x, y) at 1/8 scale, clamped to -64..64 by the
      caller; None for zeros;
    - ii, the source frame of each edge, int64 [E] or :class:`EdgeSources`; None for no outputs per
      source frame and no motion branch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fnet = _Encoder(HIDDEN, normed=True)
        self.cnet = _Encoder(2 * HIDDEN, normed=False)
        self.update = _UpdateOperator()
        self.to(memory_format=torch.channels_last)

    def features(self, images_bgr_u8: torch.Tensor) -> torch.Tensor:
        """What is compared between frames.

        Args:
            images_bgr_u8: uint8 [B,3,H,W], BGR, sides multiples of 8.

        Returns:
            [B,128,H/8,W/8] in the dtype of the weights.
        """
        return self.fnet(self._normalised(images_bgr_u8))

    def context(self, images_bgr_u8: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First hidden state and context input of edges that leave from these frames.

        Args:
            images_bgr_u8: uint8 [B,3,H,W], BGR, sides multiples of 8.

        Returns:
            net (-1 to 1) and inp (>= 0), each [B,128,H/8,W/8] in the dtype of the weights.
        """
        both = self.cnet(self._normalised(images_bgr_u8))  # [B,256,H/8,W/8]
        net, inp = both.split(HIDDEN, dim=1)  # [B,128,H/8,W/8] each
        return torch.tanh(net), F.relu(inp)

    def source_inputs(self, inp: torch.Tensor) -> SharedMaps:
        """What updates take instead of the context inputs ``inp`` [U,128,h,w], to save the work that is the same for
        all edges of a frame; ``[ii]`` of it chooses the source frame of each edge.
        """
        return self.update.source_inputs(inp)

    def _normalised(self, images_bgr_u8: torch.Tensor) -> torch.Tensor:
        rgb = imagenet_normalised(unit_range(images_bgr_u8.flip(1)))  # [B,3,H,W]
        return _prepared(rgb, self.fnet.conv1.weight.dtype)
