"""Depth Anything V1 (Yang et al. 2024a) and V2 (2024b): relative disparity from one image.

DINOv2 backbone and a DPT head (Ranftl et al. 2021). V1 and V2 have the same parameters; V1 reads the
last four blocks of the backbone, V2 four spread ones. Attributes carry the official names, so
official checkpoints load as they are: nothing in a file says which version it is, and the wrong one
gives wrong depth without any error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megasam_shared.errors import MegasamError
from torch import Tensor, nn
from torch.nn import functional as F

from megasam_server.models.dinov2 import PATCH, VIT_SIZES, Dinov2, patch_grid
from megasam_server.models.image_input import imagenet_normalised, unit_range
from megasam_server.models.network_size import depth_anything_v1_size, depth_anything_v2_size


@dataclass(frozen=True)
class HeadSize:
    """Channels of the DPT head: fused, and of the four levels before they are fused.

    ``spread`` are the blocks that V2 reads (0-based)."""

    features: int
    levels: tuple[int, int, int, int]
    spread: tuple[int, int, int, int]


HEAD_SIZES = {
    "vits": HeadSize(64, (48, 96, 192, 384), (2, 5, 8, 11)),
    "vitb": HeadSize(128, (96, 192, 384, 768), (2, 5, 8, 11)),
    "vitl": HeadSize(256, (256, 512, 1024, 1024), (4, 11, 17, 23)),
}
VERSIONS = (1, 2)


class DepthAnything(nn.Module):
    """Depth Anything.

    Args:
        encoder: ``vits``, ``vitb`` or ``vitl``.
        version: 1 or 2.

    Raises:
        MegasamError: ``unknown_depth_network``.
    """

    def __init__(self, encoder: str, version: int) -> None:
        super().__init__()
        if encoder not in HEAD_SIZES or version not in VERSIONS:
            raise MegasamError(
                "unknown_depth_network",
                f"There is no Depth Anything V{version} with encoder {encoder!r}.",
                f"Versions: 1, 2; encoders: {', '.join(HEAD_SIZES)}.",
            )
        vit, head = VIT_SIZES[encoder], HEAD_SIZES[encoder]
        self.version = version
        self.blocks = head.spread if version == 2 else tuple(range(vit.depth - 4, vit.depth))
        self.pretrained = Dinov2(vit, grid_offset=0.1)
        # Tokens arrive channels last: with weights in the same order no convolution reorders them.
        self.depth_head = DptHead(vit.width, head).to(memory_format=torch.channels_last)

    def network_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that :meth:`disparity` runs the network at."""
        if self.version == 1:
            return depth_anything_v1_size(width, height)
        return depth_anything_v2_size(width, height)

    def forward(self, images: Tensor) -> Tensor:
        """Relative disparity [B,H,W], >= 0, dtype of the weights.

        Args:
            images: [B,3,H,W] RGB, ImageNet-normalised, dtype of the weights; sides multiples of 14.
        """
        return self.before_relu(images).relu().squeeze(1)

    def before_relu(self, images: Tensor) -> Tensor:
        """As :meth:`forward`, before the last ReLU, [B,1,H,W]: the sky may be negative here."""
        h, w = patch_grid(images)
        levels = [
            patches.transpose(1, 2).unflatten(2, (h, w))  # [B,C,h,w], channels last in memory
            for patches, _ in self.pretrained(images, self.blocks)
        ]
        return self.depth_head(levels)

    @torch.no_grad()
    def disparity(self, images: Tensor) -> Tensor:
        """Relative disparity of plate frames: larger is nearer, 0 is far away or sky.

        Resized with a bicubic kernel without antialiasing, on the device of ``images``: what OpenCV's
        INTER_CUBIC of float images gives (to 1e-4 of the range), which the networks were published
        with. Disparity is resized back as each version does it.

        Args:
            images: [B,3,H,W] RGB, uint8, or float in 0..1; on the device of the network.

        Returns:
            float32 [B,H,W], of the images' size.
        """
        height, width = images.shape[-2:]
        network_width, network_height = self.network_size(width, height)
        inputs = F.interpolate(
            unit_range(images), (network_height, network_width), mode="bicubic"
        )  # [B,3,h,w]
        weights = self.depth_head.scratch.output_conv1.weight
        small = self(imagenet_normalised(inputs).to(weights.dtype))  # [B,h,w]
        return F.interpolate(
            small[:, None].float(),
            (height, width),
            mode="bilinear",
            align_corners=self.version == 2,
        ).squeeze(1)


class DptHead(nn.Module):
    """Fuses four levels of tokens into one map at the resolution of the image."""

    def __init__(self, width: int, size: HeadSize) -> None:
        super().__init__()
        c0, c1, _, c3 = size.levels
        self.projects = nn.ModuleList(nn.Conv2d(width, c, 1) for c in size.levels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(c0, c0, 4, stride=4),
                nn.ConvTranspose2d(c1, c1, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c3, c3, 3, stride=2, padding=1),
            ]
        )
        self.scratch = DptScratch(size)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Four levels [B,C,h,w], shallow first -> [B,1,14h,14w] before the last ReLU."""
        h, w = levels[0].shape[-2:]
        scratch = self.scratch
        pyramid = [
            resize(project(level))  # [B,c,h,w] times 4, 2, 1, 1/2
            for level, project, resize in zip(
                levels, self.projects, self.resize_layers, strict=True
            )
        ]
        r1 = scratch.layer1_rn(pyramid[0])  # [B,f,4h,4w]
        r2 = scratch.layer2_rn(pyramid[1])  # [B,f,2h,2w]
        r3 = scratch.layer3_rn(pyramid[2])  # [B,f,h,w]
        r4 = scratch.layer4_rn(pyramid[3])  # [B,f,h/2,w/2]
        x = scratch.refinenet4(r4, None, r3.shape[-2:])  # [B,f,h,w]
        x = scratch.refinenet3(x, r3, r2.shape[-2:])  # [B,f,2h,2w]
        x = scratch.refinenet2(x, r2, r1.shape[-2:])  # [B,f,4h,4w]
        x = scratch.refinenet1(x, r1, (8 * h, 8 * w))  # [B,f,8h,8w]
        x = scratch.output_conv1(x)  # [B,f/2,8h,8w]
        x = resized(x, (PATCH * h, PATCH * w))  # [B,f/2,14h,14w]
        return scratch.output_conv2(x)  # [B,1,14h,14w]


class DptScratch(nn.Module):
    """The head's layers that are trained from scratch (hence the official name)."""

    def __init__(self, size: HeadSize) -> None:
        super().__init__()
        f = size.features
        c0, c1, c2, c3 = size.levels
        self.layer1_rn = nn.Conv2d(c0, f, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(c1, f, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(c2, f, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(c3, f, 3, padding=1, bias=False)
        self.refinenet1 = Fusion(f)
        self.refinenet2 = Fusion(f)
        self.refinenet3 = Fusion(f)
        self.refinenet4 = Fusion(f)
        self.output_conv1 = nn.Conv2d(f, f // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(f // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1)
        )


class Fusion(nn.Module):
    """Adds a finer level to what has been fused so far, and goes on to that level's size."""

    def __init__(self, features: int) -> None:
        super().__init__()
        # The coarsest fusion has no finer level to add; its resConfUnit1 exists in files only.
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """x [B,f,a,b], skip the same or None -> [B,f,*size]."""
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.resConfUnit2(x)
        # The 1x1 convolution and the interpolation are linear and commute: on the smaller map first,
        # a quarter of the work.
        return resized(self.out_conv(x), size)


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x.relu()).relu())  # [B,f,a,b]


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with the corner pixels' centres aligned, as the whole head does it."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
