"""UniDepth V2 (Piccinelli et al. 2024, the release that MegaSaM uses): metric depth and a pinhole
camera from one image.

DINOv2 encoder; a camera head reads the focal lengths and principal point off the class tokens, the
rays of that camera (or of a known one) are prompted into the features, and a depth head decodes
them. Attributes carry the official names, so official checkpoints load as they are.

Pixel coordinates of this network are counted from the image's corner: the centre of the first pixel
is at 0.5, and the principal point of a centred camera at W/2, H/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megasam_shared.errors import MegasamError
from torch import Tensor, nn
from torch.nn import functional as F

from megasam_server.models.camera_rays import (
    direction_features,
    rays_of,
    resized_rays,
    sine_position,
)
from megasam_server.models.dinov2 import VIT_SIZES, Dinov2, VitSize, patch_grid
from megasam_server.models.image_input import imagenet_normalised, unit_range
from megasam_server.models.network_size import UNIDEPTH_PATCHES, unidepth_size
from megasam_server.models.unidepth_blocks import (
    CrossAttention,
    HeadMixing,
    Perceptron,
    Upsampling,
)

ENCODERS = ("vits", "vitl")
WIDTH = 512
"""Channels of the decoder, D."""
LEVELS = 4
"""Backbone blocks that are read: the last four."""
RAY_BANDS = 32
"""Frequencies per coordinate of a ray's direction."""
RAY_FEATURES = 3 * (RAY_BANDS + 1)
MIXING_BLOCKS = (6, 0, 0)
"""Blocks before each of the three doublings of the resolution."""


@dataclass(frozen=True)
class MetricDepth:
    """What UniDepth says of a batch of images.

    Attributes:
        depth: metres along the optical axis, float32 [B,H,W].
        confidence: 0..1, float32 [B,H,W].
        intrinsics: predicted fx, fy, cx, cy in pixels of the image, corner at 0, float32 [B,4].
    """

    depth: Tensor
    confidence: Tensor
    intrinsics: Tensor

    @property
    def horizontal_fov(self) -> Tensor:
        """Predicted horizontal field of view, degrees, [B]."""
        width = self.depth.shape[-1]
        return torch.rad2deg(2 * torch.atan(width / (2 * self.intrinsics[:, 0])))


class UniDepthV2(nn.Module):
    """UniDepth V2.

    Args:
        encoder: ``vits`` or ``vitl``.

    Raises:
        MegasamError: ``unknown_depth_network``.
    """

    def __init__(self, encoder: str) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise MegasamError(
                "unknown_depth_network",
                f"There is no UniDepth V2 with encoder {encoder!r}.",
                f"Encoders: {', '.join(ENCODERS)}.",
            )
        vit = VIT_SIZES[encoder]
        self.blocks = tuple(range(vit.depth - LEVELS, vit.depth))
        self.pixel_encoder = UniDepthEncoder(vit)
        self.pixel_decoder = Decoder(vit.width)

    def halve_encoder(self) -> None:
        """The encoder, most of the arithmetic, in float16; what follows stays as it is: the focal length passes through
        an exponential, which half precision spoils."""
        self.pixel_encoder.half()

    @torch.no_grad()
    def infer(
        self,
        images: Tensor,
        intrinsics: Tensor | None = None,
        patches: int = UNIDEPTH_PATCHES,
    ) -> MetricDepth:
        """Metric depth and camera of plate frames.

        Args:
            images: [B,3,H,W] RGB, uint8, or float in 0..1; on the device of the network.
            intrinsics: fx, fy, cx, cy of a known camera, [B,4], pixels of the images, corner at 0;
                None: the camera is predicted.
            patches: about how many patches the network sees; it was trained with 1400 to 2400.
        """
        height, width = images.shape[-2:]
        network_width, network_height, factor = unidepth_size(width, height, patches)
        inputs = F.interpolate(
            imagenet_normalised(unit_range(images)),
            (network_height, network_width),
            mode="bilinear",
            antialias=True,
        )  # [B,3,h,w]
        known = None if intrinsics is None else intrinsics.float() * factor
        depth, confidence, predicted = self(inputs, known)
        return MetricDepth(
            depth=F.interpolate(depth, (height, width), mode="bilinear").squeeze(1),
            confidence=F.interpolate(
                confidence, (height, width), mode="bilinear", antialias=True
            ).squeeze(1),
            intrinsics=predicted / factor,
        )

    def forward(
        self, images: Tensor, intrinsics: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The network at its own resolution.

        Args:
            images: [B,3,H,W], ImageNet-normalised; H and W multiples of 14.
            intrinsics: fx, fy, cx, cy of a known camera at this resolution, float32 [B,4], or None.

        Returns:
            Depth in metres [B,1,H,W], confidence [B,1,H,W] and predicted intrinsics [B,4], float32.
        """
        dtype = self.pixel_decoder.level_embeds.dtype
        levels = self.pixel_encoder(images.to(self.pixel_encoder.cls_token.dtype), self.blocks)
        patches = [patches.to(dtype) for patches, _ in levels]  # 4 x [B,n,C]
        classes = [tokens.to(dtype) for _, tokens in levels]  # 4 x [B,C]
        return self.pixel_decoder(patches, classes, patch_grid(images), intrinsics)


class UniDepthEncoder(Dinov2):
    """DINOv2; the files also hold a register token, which nothing reads."""

    def __init__(self, size: VitSize) -> None:
        super().__init__(size, grid_offset=0.0)
        self.register_tokens = nn.Parameter(torch.zeros(1, 1, size.width))


class Decoder(nn.Module):
    """Camera, scale and shift, and depth from the encoder's last four levels."""

    def __init__(self, encoder_width: int) -> None:
        super().__init__()
        self.camera_layer = CameraHead()
        self.global_layer = GlobalHead()
        self.input_adapter = Adapters(encoder_width, LEVELS)
        self.camera_token_adapter = Adapters(encoder_width, 4)
        self.global_token_adapter = Adapters(encoder_width, 2)
        self.depth_layer = DepthHead()
        self.level_embeds = nn.Parameter(torch.randn(LEVELS, WIDTH))
        self.level_embed_layer = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        )

    def forward(
        self,
        patches: list[Tensor],
        classes: list[Tensor],
        grid: tuple[int, int],
        intrinsics: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Patch tokens 4 x [B,n,C], class tokens 4 x [B,C], grid (h,w) with n = h*w."""
        h, w = grid
        height, width = 14 * h, 14 * w
        features = self.input_adapter(patches)  # 4 x [B,n,D]
        all_features = torch.cat(features, dim=1)  # [B,4n,D]

        level = self.level_embed_layer(self.level_embeds)  # [4,D]
        position = sine_position(h, w, WIDTH, level.device).to(level.dtype)  # [n,D]
        place = (level[:, None] + position).reshape(1, LEVELS * h * w, WIDTH)  # [1,4n,D]

        _, second, third, last = classes
        camera_tokens = torch.stack(
            self.camera_token_adapter([second, third, last, third]), dim=1
        )  # [B,4,D]
        predicted = self.camera_layer(all_features + place, camera_tokens, (height, width))  # [B,4]

        camera = predicted if intrinsics is None else intrinsics
        rays = rays_of(camera, height, width)  # [B,3,H,W]
        ray_features = [
            direction_features(
                resized_rays(rays, (h << i, w << i)), RAY_BANDS, max(h << i, w << i) // 2
            ).to(level.dtype)
            for i in range(len(MIXING_BLOCKS))
        ]  # [B,n,99], [B,4n,99], [B,16n,99]

        global_tokens = torch.stack(self.global_token_adapter([third, last]), dim=1)  # [B,2,D]
        scale, shift = self.global_layer(all_features, global_tokens, ray_features[0])  # [B,1,1,1]

        log_depth, confidence = self.depth_layer(features, all_features, place, ray_features, grid)
        # Per image: the head tells the shape of log depth only, the global head its range.
        shape = torch.exp(F.layer_norm(log_depth.float(), (height, width)))  # [B,1,H,W]
        depth = F.softplus((shape + shift) * scale, beta=10.0)
        return depth, confidence.float(), predicted


class Adapters(nn.Module):
    """One projection to the decoder's width per input."""

    def __init__(self, encoder_width: int, count: int) -> None:
        super().__init__()
        self.input_adapters = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(encoder_width), nn.Linear(encoder_width, WIDTH), nn.GELU())
            for _ in range(count)
        )

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """count x [...,C] -> count x [...,D]"""
        return [adapter(x) for adapter, x in zip(self.input_adapters, inputs, strict=True)]


class CameraHead(nn.Module):
    """A pinhole camera: four class tokens look at all features, one number comes out of each."""

    def __init__(self) -> None:
        super().__init__()
        self.aggregate1 = CrossAttention(WIDTH, heads=1)
        self.aggregate2 = CrossAttention(WIDTH, heads=1)
        self.latents_pos = nn.Parameter(torch.randn(1, 4, WIDTH))
        self.in_features = Perceptron(WIDTH, WIDTH, expansion=2)
        self.project_cls = Perceptron(WIDTH, WIDTH, expansion=4)
        self.out = Perceptron(WIDTH, 1, expansion=2)

    def forward(self, features: Tensor, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Features with their place [B,4n,D], tokens [B,4,D], size (H,W) -> fx fy cx cy [B,4]."""
        height, width = size
        tokens = self.project_cls(tokens)
        context = torch.cat([self.in_features(features), tokens], dim=1)  # [B,4n+4,D]
        tokens = self.aggregate1(tokens, context, query_place=self.latents_pos)
        tokens = self.aggregate2(tokens, context, query_place=self.latents_pos)
        log_focal, centre = self.out(tokens).squeeze(-1).float().split(2, dim=1)  # [B,2] each
        focal = log_focal.exp() * (max(size) / 2)
        x, y = centre.sigmoid().split(1, dim=1)  # [B,1] each
        return torch.cat([focal, x * width, y * height], dim=1)


class GlobalHead(nn.Module):
    """Scale and shift of the depth."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features = nn.Linear(WIDTH, WIDTH)
        self.project_rays = nn.Linear(RAY_FEATURES, WIDTH)
        self.aggregate1 = CrossAttention(WIDTH, heads=1)
        self.aggregate2 = CrossAttention(WIDTH, heads=1)
        self.project_cls = Perceptron(WIDTH, WIDTH, expansion=4)
        self.out = Perceptron(WIDTH, 1, expansion=2)

    def forward(
        self, features: Tensor, tokens: Tensor, ray_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features [B,4n,D], tokens [B,2,D], rays' features [B,n,99] -> scale, shift [B,1,1,1]."""
        tokens = self.project_cls(tokens)
        rays = self.project_rays(ray_features).repeat(1, LEVELS, 1)  # [B,4n,D]
        context = torch.cat([self.in_features(features + rays), tokens], dim=1)  # [B,4n+2,D]
        tokens = self.aggregate2(self.aggregate1(tokens, context), context)
        log_scale, shift = self.out(tokens).float().unsqueeze(-1).split(1, dim=1)  # [B,1,1,1]
        return log_scale.exp(), shift


class DepthHead(nn.Module):
    """Log depth (up to scale and shift) and confidence, prompted by the rays."""

    def __init__(self) -> None:
        super().__init__()
        widths = [WIDTH >> i for i in range(len(MIXING_BLOCKS))]  # 512, 256, 128
        self.to_latents = Perceptron(WIDTH, WIDTH, expansion=2)
        self.features_channel_cat = nn.Linear(LEVELS * WIDTH, WIDTH)
        self.aggregate_16 = CrossAttention(WIDTH, heads=1)
        self.prompt_camera = CrossAttention(WIDTH, heads=1)
        self.rays_layers = nn.ModuleList(nn.Linear(RAY_FEATURES, d) for d in widths)
        self.process_layers = nn.ModuleList(
            nn.ModuleList(HeadMixing(d, heads=8 >> i) for _ in range(count))
            for i, (d, count) in enumerate(zip(widths, MIXING_BLOCKS, strict=True))
        )
        self.ups = nn.ModuleList(Upsampling(d) for d in widths)
        self.depth_mlp = nn.ModuleList(Perceptron(d // 2, 16, expansion=1) for d in widths)
        self.confidence_mlp = nn.ModuleList(Perceptron(d // 2, 16, expansion=1) for d in widths)
        self.to_depth = nn.Conv2d(48, 1, 7, padding=3, padding_mode="reflect")
        self.to_confidence = nn.Conv2d(48, 1, 7, padding=3, padding_mode="reflect")

    def forward(
        self,
        features: list[Tensor],
        all_features: Tensor,
        place: Tensor,
        ray_features: list[Tensor],
        grid: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Features 4 x [B,n,D] and the same in one [B,4n,D], their place [1,4n,D], features of the
        rays at 1, 2 and 4 times the grid (h,w) -> log depth and confidence [B,1,14h,14w].
        """
        h, w = grid
        rays = [layer(x) for layer, x in zip(self.rays_layers, ray_features, strict=True)]
        x = self.features_channel_cat(torch.cat(features, dim=-1))  # [B,n,D]
        x = x + self.to_latents(x)
        x = self.aggregate_16(x, all_features, context_place=place)
        x = self.prompt_camera(x, rays[0])

        maps = []  # [B,2h,2w,256], [B,4h,4w,128], [B,8h,8w,64]
        for i, (layers, up) in enumerate(zip(self.process_layers, self.ups, strict=True)):
            for layer in layers:
                x = layer(x, query_place=rays[i])  # [B,n*4^i,d]
            x = x + rays[i]
            x = x.transpose(1, 2).unflatten(2, (h << i, w << i))  # [B,d,h*2^i,w*2^i]
            x = up(x).permute(0, 2, 3, 1)  # [B,h*2^(i+1),w*2^(i+1),d/2]
            maps.append(x)
            x = x.flatten(1, 2)
        size = (14 * h, 14 * w)
        log_depth = self.to_depth(full_size(self.depth_mlp, maps, size))
        confidence = self.to_confidence(full_size(self.confidence_mlp, maps, size))
        return log_depth, confidence.sigmoid()


def full_size(layers: nn.ModuleList, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """16 channels of each map [B,a,b,d] at the full size, finest first, [B,48,H,W]."""
    small = [layer(x).permute(0, 3, 1, 2) for layer, x in zip(layers, maps, strict=True)]
    return torch.cat([F.interpolate(x, size, mode="bilinear") for x in reversed(small)], dim=1)
