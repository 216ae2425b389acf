"""The rays of a pinhole camera and the sine features that UniDepth makes of directions and places.

Everything here is float32: the highest frequencies turn small errors into large ones.
"""

from __future__ import annotations

from math import log2, pi

import torch
from torch import Tensor
from torch.nn import functional as F


def rays_of(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Unit vectors through the pixel centres, OpenCV axes, [B,3,H,W].

    Args:
        intrinsics: fx, fy, cx, cy [B,4], pixels, corner of the image at 0.
    """
    fx, fy, cx, cy = intrinsics.float()[:, :, None].unbind(1)  # [B,1] each
    x = torch.arange(width, device=intrinsics.device) + 0.5
    y = torch.arange(height, device=intrinsics.device) + 0.5
    x = ((x - cx) / fx)[:, None, :].expand(-1, height, -1)  # [B,H,W]
    y = ((y - cy) / fy)[:, :, None].expand(-1, -1, width)  # [B,H,W]
    return F.normalize(torch.stack([x, y, torch.ones_like(x)], dim=1), dim=1)


def resized_rays(rays: Tensor, size: tuple[int, int]) -> Tensor:
    """Rays [B,3,H,W] at another size (a,b), of unit length again, [B,a*b,3]."""
    small = F.interpolate(rays, size, mode="bilinear", antialias=True)  # [B,3,a,b]
    return F.normalize(small.flatten(2), dim=1).transpose(1, 2)


def direction_features(rays: Tensor, bands: int, top_frequency: int) -> Tensor:
    """sin(pi f x) of each coordinate x at ``bands`` frequencies f from 1 to ``top_frequency``,
    evenly in the logarithm, coordinate by coordinate, then the ray: [B,n,3] -> [B,n,3*(bands+1)].
    """
    exponents = torch.linspace(0.0, log2(top_frequency), bands, device=rays.device)
    phases = rays[..., None] * 2.0**exponents * pi  # [B,n,3,bands]
    return torch.cat([phases.sin().flatten(2), rays], dim=-1)


def sine_position(h: int, w: int, width: int, device: torch.device) -> Tensor:
    """The two-dimensional sine embedding of DETR (Carion et al. 2020), [h*w,width], float32.

    Half of the channels for the row, half for the column; rows and columns are numbered from 1 and
    divided by their count, times 2 pi.
    """
    half = width // 2
    pair = torch.arange(half, device=device, dtype=torch.float32).div(2, rounding_mode="floor")
    period = 10000.0 ** (2 * pair / half)  # [half]

    def embedded(count: int) -> Tensor:
        place = torch.arange(1, count + 1, device=device, dtype=torch.float32)
        phases = (place / (count + 1e-6) * 2 * pi)[:, None] / period  # [count,half]
        return torch.stack([phases[:, 0::2].sin(), phases[:, 1::2].cos()], dim=-1).flatten(1)

    rows = embedded(h)[:, None].expand(-1, w, -1)  # [h,w,half]
    columns = embedded(w)[None].expand(h, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
