"""The encoders of torchvision's ``raft_large``, each norm in one pass over memory with its relu.

An instance norm takes away any bias before it. A batch norm whose statistics are frozen is a factor
and a shift of each channel: the factor goes into the weights of the convolution, the shift into its
bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from megasam_server.models.pointwise import bias_relu, instance_norm

HIDDEN = 128
"""Channels of the recurrent state, and as many of the context."""


def encoder_input(images: Tensor, dtype: torch.dtype) -> Tensor:
    """RGB [B,3,H,W], 0..255, uint8 or floating, as the encoders want it: -1..1, channels last."""
    # Scaled in float32: 2 x / 255 - 1 in half precision would lose the last bit of x.
    scaled = (images.float() * (2 / 255) - 1).to(dtype)
    return scaled.contiguous(memory_format=torch.channels_last)


def feature_map(network: nn.Module, pictures: Tensor) -> Tensor:
    """What is correlated: ``pictures`` of :func:`encoder_input` -> [B,256,h,w]."""
    return encoded(network.feature_encoder, pictures)


def first_state(network: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """First recurrent state, and context, of flows that start in ``pictures``: [B,128,h,w] each."""
    hidden, context = encoded(network.context_encoder, pictures).split(HIDDEN, 1)
    return torch.tanh(hidden), torch.relu(context)


def encoded(encoder: nn.Module, pictures: Tensor) -> Tensor:
    """What ``encoder(pictures)`` is: [B,3,H,W], channels last for speed -> [B,256,H/8,W/8].

    Batch norms in training mode take the statistics of the batch, and note them.
    """
    x = _layer(encoder.convnormrelu, pictures)  # [B,64,H/2,W/2]
    for block in (*encoder.layer1, *encoder.layer2, *encoder.layer3):
        x = _residual(block, x)
    return encoder.conv(x)


def _residual(block: nn.Module, x: Tensor) -> Tensor:
    y = _layer(block.convnormrelu2, _layer(block.convnormrelu1, x))
    if not isinstance(block.downsample, nn.Identity):
        x = _layer(block.downsample, x)
    return F.relu(x + y)


def _layer(layer: nn.Sequential, x: Tensor) -> Tensor:
    """Convolution, norm and, where the layer has one, relu."""
    conv, norm = layer[0], layer[1]
    relu = len(layer) > 2
    if isinstance(norm, nn.InstanceNorm2d):
        return instance_norm(_convolved(conv, conv.weight, x), norm.eps, relu)
    if norm.training:
        return layer(x)
    factor = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)  # [O]
    weight = conv.weight.float() * factor[:, None, None, None]
    bias = (conv.bias.float() - norm.running_mean.float()) * factor + norm.bias.float()
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    y = _convolved(conv, weight, x)
    return bias_relu(y, bias) if relu else y + bias[:, None, None]


def _convolved(conv: nn.Conv2d, weight: Tensor, x: Tensor) -> Tensor:
    """Without bias."""
    return F.conv2d(x, weight, None, conv.stride, conv.padding)
