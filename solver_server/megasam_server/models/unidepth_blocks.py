"""The building blocks of UniDepth V2's decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Perceptron(nn.Module):
    """LayerNorm, two linear layers with a GELU between."""

    def __init__(self, width: int, output_width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.proj1 = nn.Linear(width, expansion * width)
        self.proj2 = nn.Linear(expansion * width, output_width)

    def forward(self, x: Tensor) -> Tensor:
        """[...,C] -> [...,output_width]"""
        return self.proj2(F.gelu(self.proj1(self.norm(x))))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class AttentionBlock(nn.Module):
    """Pre-norm attention and perceptron, each scaled and added. Subclasses attend."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attnx = nn.LayerNorm(width)
        self.norm_attnctx = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = Perceptron(width, width, expansion=4)
        self.ls1 = LayerScale(width)
        self.ls2 = LayerScale(width)

    def split(self, x: Tensor) -> Tensor:
        """[B,n,D] -> [B,n,heads,D/heads]"""
        return x.unflatten(-1, (self.heads, -1))


class CrossAttention(AttentionBlock):
    """Queries attend to another set of tokens."""

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        query_place: Tensor | None = None,
        context_place: Tensor | None = None,
    ) -> Tensor:
        """Queries x [B,m,D], context [B,n,D]; places are added to queries and keys -> [B,m,D]."""
        q = self.q(self.norm_attnx(x))  # [B,m,D]
        k, v = self.kv(self.norm_attnctx(context)).chunk(2, dim=-1)  # [B,n,D] each
        if query_place is not None:
            q = q + query_place
        if context_place is not None:
            k = k + context_place
        q, k, v = (self.split(t).transpose(1, 2) for t in (q, k, v))  # [B,heads,.,D/heads]
        attended = F.scaled_dot_product_attention(q, k, v)  # [B,heads,m,D/heads]
        x = x + self.ls1(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.ls2(self.mlp(x))


class HeadMixing(AttentionBlock):
    """Attention among the heads of each single token.

    The published code means Nystrom attention (Xiong et al. 2021) with 128 landmarks over the n
    tokens. But it hands the tensors over as [B,n,heads,d], where the attention takes the last axis
    but one, the heads, for the sequence; eight are fewer than the landmarks, and for so short a
    sequence Nystrom attention is the exact softmax. The released weights were trained like this:
    every token by itself, its heads attending to one another.
    """

    def forward(self, x: Tensor, query_place: Tensor) -> Tensor:
        """Tokens x [B,n,D], place added to the queries [B,n,D] -> [B,n,D]."""
        q = self.q(self.norm_attnx(x)) + query_place  # [B,n,D]
        k, v = self.kv(self.norm_attnctx(x)).chunk(2, dim=-1)
        q, k, v = (self.split(t) for t in (q, k, v))  # [B,n,heads,D/heads]
        attended = F.scaled_dot_product_attention(q, k, v)  # [B,n,heads,D/heads]
        x = x + self.ls1(self.out(attended.flatten(2)))
        return x + self.ls2(self.mlp(x))


class ConvNeXtBlock(nn.Module):
    """ConvNeXt block (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> the same"""
        y = self.dwconv(x).permute(0, 2, 3, 1)  # [B,h,w,C]
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class Upsampling(nn.Module):
    """Twice the resolution, half the channels: pixel shuffle beside a bilinear path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        quarter = width // 4
        self.convs = nn.ModuleList(ConvNeXtBlock(width) for _ in range(2))
        self.up = nn.Sequential(
            nn.PixelShuffle(2),
            nn.Conv2d(quarter, quarter, 7, padding=3, groups=quarter),
            nn.ReLU(),
            nn.Conv2d(quarter, width // 2, 3, padding=1),
        )
        self.residual = nn.Sequential(
            nn.Conv2d(width, width // 2, 1), nn.UpsamplingBilinear2d(scale_factor=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C/2,2h,2w]"""
        for conv in self.convs:
            x = conv(x)
        return self.up(x) + self.residual(x)
