"""What real cameras do to a picture: exposure drift, vignetting, defocus, grain, compression."""

from __future__ import annotations

import torch
from torch import Tensor

from megasam_server.training.random_scenes import Draw

BLOCK = 8
LUMA = (0.299, 0.587, 0.114)


def develop(linear: Tensor, draw: Draw) -> Tensor:
    """Clips with the faults of one camera each.

    Args:
        linear: rendered frames, float32 RGB 0-255 [B,T,3,H,W].

    Returns:
        the same shape, whole numbers 0-255.
    """
    frames = _exposed(linear, draw) * _vignette(linear, draw)
    frames = _defocused(frames, draw)
    frames = _grainy(frames, draw)
    frames = _compressed(frames, draw)
    grey = (frames * frames.new_tensor(LUMA)[:, None, None]).sum(2, keepdim=True)
    frames = torch.where(draw.chance(0.1, 1, 1, 1, 1), grey, frames)
    return frames.round().clamp(0, 255)


def _exposed(frames: Tensor, draw: Draw) -> Tensor:
    """Gain, colour balance and gamma of the shot, drifting a little from frame to frame."""
    count = frames.shape[1]
    gain = draw.log_uniform(0.5, 1.6, 1, 1, 1, 1) * draw.log_uniform(0.85, 1.18, 1, 3, 1, 1)
    drifting = draw.chance(0.5, 1, 1, 1, 1) * 0.08
    gain = gain * torch.exp(draw.normal(count, 1, 1, 1) * drifting)
    gain = gain * torch.exp(draw.normal(count, 3, 1, 1) * drifting * 0.3)
    gamma = draw.log_uniform(0.7, 1.4, 1, 1, 1, 1)
    return 255 * ((frames * gain).clamp(0, 255) / 255) ** gamma


def _vignette(frames: Tensor, draw: Draw) -> Tensor:
    height, width = frames.shape[-2:]
    y = torch.linspace(-1, 1, height, device=frames.device)[:, None]
    x = torch.linspace(-1, 1, width, device=frames.device)[None]
    return 1 - draw.uniform(0, 0.4, 1, 1, 1, 1) * (x * x + y * y) / 2


def _defocused(frames: Tensor, draw: Draw) -> Tensor:
    """Gaussian blur of 0 to 1.3 pixels, the same for a whole clip."""
    batch = len(frames)
    sigma = draw.uniform(0.0, 1.3) * draw.chance(0.5) + 0.05
    reach = torch.arange(-3, 4, device=frames.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (reach / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)  # [B,7]
    flat = frames.flatten(1, 2)[None].flatten(0, 1)  # [B,T*3,H,W]
    channels = flat.shape[1]
    flat = flat.reshape(1, batch * channels, *flat.shape[2:])
    weight = kernel.repeat_interleave(channels, 0)
    for shape, pad in (((-1, 1, 1, 7), (3, 3, 0, 0)), ((-1, 1, 7, 1), (0, 0, 3, 3))):
        padded = torch.nn.functional.pad(flat, pad, mode="replicate")
        flat = torch.nn.functional.conv2d(padded, weight.reshape(shape), groups=batch * channels)
    return flat.reshape(frames.shape)


def _grainy(frames: Tensor, draw: Draw) -> Tensor:
    """Read-out noise, and shot noise that grows with the root of the signal."""
    read = draw.log_uniform(0.2, 6.0, 1, 1, 1, 1)
    shot = draw.log_uniform(0.02, 0.6, 1, 1, 1, 1)
    sigma = (read**2 + shot**2 * frames).sqrt()
    coloured = draw.chance(0.5, 1, 1, 1, 1)
    shape = frames.shape[1:]
    noise = torch.where(coloured, draw.normal(*shape), draw.normal(shape[0], 1, *shape[2:]))
    return (frames + sigma * noise).clamp(0, 255)


def _compressed(frames: Tensor, draw: Draw) -> Tensor:
    """Quantised cosine transform of 8 x 8 blocks, as JPEG and most movie codecs have it."""
    height, width = (extent - extent % BLOCK for extent in frames.shape[-2:])
    k = torch.arange(BLOCK, device=frames.device, dtype=torch.float32)
    transform = torch.cos(torch.pi * (k + 0.5) * k[:, None] / BLOCK) * (2 / BLOCK) ** 0.5
    transform[0] /= 2**0.5  # [frequency, position], orthonormal
    coarseness = draw.log_uniform(0.5, 8.0, 1, 1, 1, 1, 1, 1)
    step = coarseness * (1 + 0.9 * (k[:, None] + k))[:, None, :]  # [B,1,1,1,8,1,8]
    inside = frames[..., :height, :width]
    blocks = inside.unflatten(-2, (-1, BLOCK)).unflatten(-1, (-1, BLOCK))  # [B,T,3,Y,8,X,8]
    turned = torch.einsum("fi,btcyixj,gj->btcyfxg", transform, blocks, transform)
    turned = (turned / step).round() * step
    blocks = torch.einsum("fi,btcyfxg,gj->btcyixj", transform, turned, transform)
    packed = frames.clone()
    packed[..., :height, :width] = blocks.flatten(-2).flatten(-3, -2)
    return torch.where(draw.chance(0.5, 1, 1, 1, 1), packed, frames).clamp(0, 255)
