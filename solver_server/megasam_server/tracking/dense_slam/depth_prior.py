"""The depth prior on the tracker's grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.pose_filling import bracketing

# By how much a keyframe's correction of its prior may differ from its own median.
_MAX_CORRECTION = 2.0


def prior_from_depth(depth: Tensor) -> Tensor:
    """Disparity [..., H/8, W/8] from depth [..., H, W], 0 = none: one over the mean depth, as the reference does.

    Depths of 0 count in the mean.
    """
    height, width = depth.shape[-2:]
    flat = depth.reshape(-1, 1, height, width).float()
    mean = F.interpolate(flat, (height // 8, width // 8), mode="area")
    return torch.where(mean > 0, 1 / mean, 0.0).reshape(*depth.shape[:-2], *mean.shape[-2:])


def prior_from_disparity(disparity: Tensor) -> Tensor:
    """Disparity [..., H/8, W/8] from disparity [..., H, W], 0 = none in both: the mean of those that there are.

    None where less than half of a cell has one.
    """
    height, width = disparity.shape[-2:]
    flat = disparity.reshape(-1, 1, height, width).float()
    total = F.avg_pool2d(flat, 8)
    known = F.avg_pool2d((flat > 0).to(flat.dtype), 8)
    mean = torch.where(known >= 0.5, total / known.clamp(min=0.5), 0.0)
    return mean.reshape(*disparity.shape[:-2], *mean.shape[-2:])


def disparities_between(
    store: KeyframeStore, frames: list[int], priors: Tensor, has_prior: bool
) -> Tensor:
    """First disparities [K, h, w] of frames, from those of the keyframes around them.

    Where a frame has a prior, the prior with the keyframes' corrections of theirs; elsewhere the keyframes' own values.
    Both are blended in their logarithm, and read at the same pixel: neighbours differ by little.

    Args:
        priors: [K, h, w] of the frames, 0 = none.
        has_prior: False when no frame has one.
    """
    before, after = bracketing(store.times, frames)
    span = [max(store.times[b] - store.times[a], 1) for a, b in zip(before, after, strict=True)]
    share = [
        min((frame - store.times[a]) / s, 1.0)
        for frame, a, s in zip(frames, before, span, strict=True)
    ]
    share = torch.tensor(share, device=store.device)[:, None, None]

    def blended(maps: Tensor) -> Tensor:
        return torch.lerp(maps[before.tolist()], maps[after.tolist()], share).exp()

    between = blended(store.disps.log())
    if not has_prior:
        return between
    known = store.priors > 0
    correction = (store.disps / store.priors).where(known, torch.nan)
    median = correction.flatten(1).nanmedian(dim=1).values.nan_to_num(1.0)[:, None, None]
    correction = (correction / median).nan_to_num(1.0)
    correction = median * correction.clamp(1 / _MAX_CORRECTION, _MAX_CORRECTION)
    return torch.where(priors > 0, priors * blended(correction.log()), between)
