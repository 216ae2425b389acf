"""DINOv2 ViT/14 without registers: the backbone of Depth Anything and of UniDepth V2.

The blocks are timm's, which hold the same parameters under the same names as the official code, so
official checkpoints load as they are (``mask_token``, needed for training only, is kept for that).
What timm does differently is written here: the position embedding is resized as in DINOv2
(Oquab et al. 2023), and the outputs of any blocks can be had.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import torch
from megasam_shared.errors import MegasamError
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 14
"""Side of a patch, pixels: both sides of an image must be multiples of it."""

TRAINED_GRID = 37
"""Patches per side of the images the position embedding was trained with (518 pixels)."""


@dataclass(frozen=True)
class VitSize:
    """Width (channels), depth (blocks) and attention heads of a vision transformer."""

    width: int
    depth: int
    heads: int


VIT_SIZES = {
    "vits": VitSize(384, 12, 6),
    "vitb": VitSize(768, 12, 12),
    "vitl": VitSize(1024, 24, 16),
}


class Dinov2(nn.Module):
    """DINOv2 backbone.

    Args:
        size: width, depth and heads.
        grid_offset: added to the patch grid when the position embedding is resized. Depth Anything
            was trained with 0.1 (the scale then differs a little from the ratio of the sizes),
            UniDepth V2 with 0.0 (resized to the exact size).
    """

    def __init__(self, size: VitSize, grid_offset: float) -> None:
        super().__init__()
        self.grid_offset = grid_offset
        self.patch_embed = PatchEmbed(None, PATCH, embed_dim=size.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, size.width))
        self.mask_token = nn.Parameter(torch.zeros(1, size.width))
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(size.width, size.heads, qkv_bias=True, init_values=1.0, norm_layer=norm)
            for _ in range(size.depth)
        )
        self.norm = norm(size.width)
        self._positions: dict[tuple[int, int], Tensor] = {}

    def forward(self, images: Tensor, blocks: Collection[int]) -> list[tuple[Tensor, Tensor]]:
        """Tokens after each of ``blocks`` (0-based), each through the final LayerNorm.

        Args:
            images: [B,3,H,W] with ImageNet mean and deviation taken out; H and W multiples of 14.

        Returns:
            Per block, in ascending order: patch tokens [B,h*w,C] row by row (h = H/14, w = W/14)
            and class token [B,C].

        Raises:
            MegasamError: ``image_not_of_whole_patches``.
        """
        h, w = patch_grid(images)
        x = self.patch_embed(images)  # [B,h*w,C]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # [B,1+h*w,C]
        x = x + self._position(h, w)
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in blocks:
                tokens = self.norm(x)
                outputs.append((tokens[:, 1:], tokens[:, 0]))
        return outputs

    def _position(self, h: int, w: int) -> Tensor:
        """The position embedding for a grid of h x w patches, [1,1+h*w,C].

        Kept for each size outside training: the frames of a clip are all of one size, and the
        bicubic kernel is slow for few pixels with many channels. So a size must have been run once
        before a CUDA graph is captured at it.
        """
        learning = torch.is_grad_enabled() and self.pos_embed.requires_grad
        if self.training or learning:
            return self._resized_position(h, w)
        if (h, w) not in self._positions:
            self._positions[h, w] = self._resized_position(h, w)
        return self._positions[h, w]

    def _resized_position(self, h: int, w: int) -> Tensor:
        if h == w == TRAINED_GRID:
            return self.pos_embed
        n = TRAINED_GRID
        grid = self.pos_embed[:, 1:].float().unflatten(1, (n, n)).permute(0, 3, 1, 2)  # [1,C,n,n]
        if self.grid_offset:
            # The given factors, not the ratio of the sizes, must reach the kernel.
            factors = ((h + self.grid_offset) / n, (w + self.grid_offset) / n)
            grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        else:
            grid = F.interpolate(grid, size=(h, w), mode="bicubic")  # [1,C,h,w]
        patches = grid.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)  # [1,h*w,C]
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)

    # Whatever changes the weights passes through one of these.

    def train(self, mode: bool = True) -> Dinov2:
        self._positions.clear()
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True) -> Dinov2:
        self._positions.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args) -> None:
        self._positions.clear()
        super()._load_from_state_dict(*args)


def patch_grid(images: Tensor) -> tuple[int, int]:
    """Rows and columns of patches of images [B,3,H,W].

    Raises:
        MegasamError: ``image_not_of_whole_patches``: H or W is no multiple of 14.
    """
    height, width = images.shape[-2:]
    if height % PATCH or width % PATCH or not height or not width:
        raise MegasamError(
            "image_not_of_whole_patches",
            f"The network takes images whose sides are multiples of {PATCH} pixels, and this one "
            f"is {width}x{height}.",
            "Resize it with the rule of the network (megasam_server.models.network_size).",
        )
    return height // PATCH, width // PATCH
