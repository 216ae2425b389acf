"""The depth prior on the tracker's grid."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.pose_filling import bracketing

# By how much a keyframe's correction of its prior may differ from its own median.
_MAX_CORRECTION = 2.0


def prior_from_disparity(disparity: Tensor) -> Tensor:
    """Disparity [..., H/8, W/8] from disparity [..., H, W], 0 = none in both: the mean of those that there are.

    None where less than half of a cell has one.
    """
    height, width = disparity.shape[-2:]
    flat = disparity.reshape(-1, 1, height, width).float()
    total = F.avg_pool2d(flat, 8)
    known = F.avg_pool2d((flat > 0).to(flat.dtype), 8)
    mean = (total / known.clamp(min=0.5)).masked_fill(known < 0.5, 0.0)
    return mean.reshape(*disparity.shape[:-2], *mean.shape[-2:])


def disparities_between(store: KeyframeStore, frames: list[int], priors: Tensor) -> Tensor:
    """First disparities [K, h, w] of frames, from those of the keyframes around them.

    Where a frame has a prior, the prior with the keyframes' corrections of theirs; elsewhere the keyframes' own values.
    Both are blended in their logarithm, and read at the same pixel: neighbours differ by little.

    Args:
        priors: [K, h, w] of the frames, 0 = none.
    """
    before, after = bracketing(store.times, frames)
    times = np.asarray(store.times)
    share = (np.asarray(frames) - times[before]) / np.maximum(times[after] - times[before], 1)
    share = torch.from_numpy(share.clip(max=1)).to(store.device, torch.float32)[:, None, None]

    def blended(maps: Tensor) -> Tensor:
        return torch.lerp(maps[before.tolist()], maps[after.tolist()], share).exp()

    between = blended(store.disps.log())
    correction = (store.disps / store.priors).masked_fill(~(store.priors > 0), torch.nan)
    median = correction.flatten(1).nanmedian(dim=1).values.nan_to_num(1.0)[:, None, None]
    correction = (correction / median).nan_to_num(1.0)
    correction = median * correction.clamp(1 / _MAX_CORRECTION, _MAX_CORRECTION)
    return torch.where(priors > 0, priors * blended(correction.log()), between)
