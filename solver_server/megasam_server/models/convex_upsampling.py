"""Convex upsampling by 8: every fine pixel a weighted mean of 3x3 coarse ones (RAFT, section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from megasam_server.models.gpu_kernels import kernels_for

_FACTOR = 8


def upsample_convex(coarse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``coarse`` at 8 times its size, with learned weights.

    Args:
        coarse: [B,C,h,w], any real dtype. Values are not scaled: a flow in coarse pixels stays so.
        mask: [B,576,h,w], logits; channel (k*8 + a)*8 + b weighs neighbour k of the 3x3 (row by
            row) in the fine pixel (8y+a, 8x+b). Outside the image the neighbours are zero.

    Returns:
        [B,C,8h,8w] in the dtype of ``coarse``; the softmax runs in float32.
    """
    if kernels_for(coarse, mask):
        from megasam_server.models import triton_upsampling  # needs Triton

        return triton_upsampling.upsample_convex(coarse, mask)
    batch, channels, height, width = coarse.shape
    logits = mask.view(batch, 1, 9, _FACTOR, _FACTOR, height, width)  # [B,1,9,8,8,h,w]
    weights = torch.softmax(logits.float(), dim=2).to(coarse.dtype)  # [B,1,9,8,8,h,w]
    around = F.unfold(coarse, kernel_size=3, padding=1)  # [B,C*9,h*w]
    around = around.view(batch, channels, 9, 1, 1, height, width)  # [B,C,9,1,1,h,w]
    fine = (weights * around).sum(dim=2)  # [B,C,8,8,h,w]
    fine = fine.permute(0, 1, 4, 2, 5, 3)  # [B,C,h,8,w,8]
    return fine.reshape(batch, channels, _FACTOR * height, _FACTOR * width)  # [B,C,8h,8w]
