"""The total loss of consistent video depth and its gradient by GPU kernels.

The same as :class:`megasam_server.video_depth.consistency_objective.Objective` up to rounding, in
memory that is taken once: a call makes nothing but a few numbers, never waits for the device, and can
be captured in a CUDA graph. Importing this module needs Triton.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from megasam_server.video_depth.consistency_kernels import (
    blur_kernel,
    edge_kernel,
    finish_kernel,
    normal_kernel,
    pair_kernel,
    point_kernel,
)
from megasam_server.video_depth.consistency_losses import (
    LEAST,
    LEAST_DEPTH,
    MOST,
    MOST_COMPARED,
    SCALES,
    UNCERTAINTY_COST,
    FlowPairs,
    surface_normals,
)
from megasam_server.video_depth.consistency_objective import LossWeights
from megasam_server.video_depth.image_filters import gaussian_weights

BLOCK = 128
"""Pixels of one program: one for each thread of its four warps, so that atomic additions of
neighbouring threads go to neighbouring pixels."""


class FusedObjective:
    """The total loss of a disparity and an uncertainty; on CUDA, or in Triton's interpreter.

    Args:
        prior, flatness, intrinsics, pairs, weights: as for ``Objective``, float32, on one device;
            the flow and the mask of the pairs contiguous.
        block: pixels of one program, a power of two.
    """

    capturable = True

    def __init__(
        self,
        prior: Tensor,
        flatness: Tensor,
        intrinsics: Tensor,
        pairs: FlowPairs,
        weights: LossWeights,
        block: int = BLOCK,
    ) -> None:
        count, height, width = prior.shape
        self._weights, self._block = weights, block
        self._prior, self._flatness = prior.contiguous(), flatness.contiguous()
        self._intrinsics = intrinsics.contiguous()
        self._normals = prior.new_empty(count, 3, height, width)
        for frame in range(count):
            part = slice(frame, frame + 1)
            self._normals[part] = surface_normals(prior[part], intrinsics[part])

        source, order = pairs.source.sort(stable=True)
        frames = torch.arange(count + 1, device=prior.device)
        self._first = torch.searchsorted(source, frames).int()  # [N+1]
        self._order, self._target = order.int(), pairs.target.int()  # [P] each
        self._projection = pairs.projection.contiguous()
        self._flow, self._mask = pairs.flow.contiguous(), pairs.mask.contiguous().view(torch.uint8)

        self._blocks = triton.cdiv(height * width, block)
        self._edges = [
            (step, triton.cdiv((height // step - 2) * (width // step - 2), block))
            for step in SCALES
            if min(height, width) >= 3 * step
        ]
        self._blurred = torch.empty_like(prior)  # and then the gradient by it
        self._by_gradients = prior.new_empty(count, 6, height, width)
        self._by_disparity, self._by_uncertainty = torch.empty_like(prior), torch.empty_like(prior)
        self._pair_sums = prior.new_empty(count * self._blocks, 2)
        self._differences = prior.new_empty(count, self._blocks, 2)
        # Of the normals, then of each scale of the edges.
        parts = [self._blocks, *(blocks for _, blocks in self._edges)]
        self._frame_sums = prior.new_empty(count * sum(parts))
        self._sum_parts = self._frame_sums.split([count * blocks for blocks in parts])

    def __call__(self, disparity: Tensor, uncertainty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The total, and its gradients by the two arguments, [N,h,w] each.

        The gradients are valid until the next call.

        Args:
            disparity, uncertainty: [N,h,w], in range.
        """
        count, height, width = disparity.shape
        pixels = height * width
        weights = self._weights
        disparity, uncertainty = disparity.contiguous(), uncertainty.contiguous()
        blur = gaussian_weights()
        everywhere = (self._blocks, count)

        self._by_disparity.zero_()
        pair_kernel[everywhere](
            disparity,
            uncertainty,
            self._first,
            self._order,
            self._target,
            self._projection,
            self._flow,
            self._mask,
            self._by_disparity,
            self._by_uncertainty,
            self._pair_sums,
            height,
            width,
            weights.ratio,
            weights.flow / 2,
            LEAST=LEAST,
            MOST=MOST,
            MOST_COMPARED=MOST_COMPARED,
            LEAST_DEPTH=LEAST_DEPTH,
            UNCERTAINTY_COST=UNCERTAINTY_COST,
            BLOCK=self._block,
        )
        pair_sums = self._pair_sums.sum(0)  # [2]
        blur_kernel[everywhere](
            disparity,
            self._prior,
            self._blurred,
            self._differences,
            height,
            width,
            *blur,
            BLOCK=self._block,
        )
        differences = self._differences.sum(1)  # [N,2]
        normal_kernel[everywhere](
            self._blurred,
            self._normals,
            self._flatness,
            self._intrinsics,
            self._by_gradients,
            self._sum_parts[0],
            height,
            width,
            weights.normal / (count * pixels),
            BLOCK=self._block,
        )
        point_kernel[everywhere](
            self._by_gradients, self._intrinsics, self._blurred, height, width, BLOCK=self._block
        )
        finish_kernel[everywhere](
            disparity,
            self._prior,
            self._blurred,
            pair_sums,
            differences,
            self._by_disparity,
            self._by_uncertainty,
            height,
            width,
            *blur,
            weights.scale_invariant / (count * pixels),
            BLOCK=self._block,
        )
        for (step, blocks), sums in zip(self._edges, self._sum_parts[1:], strict=True):
            edge_kernel[(blocks, count)](
                disparity,
                self._prior,
                self._by_disparity,
                sums,
                height,
                width,
                step,
                weights.gradient / (count * (height // step - 2) * (width // step - 2)),
                BLOCK=self._block,
            )

        mean, square = (differences / pixels).unbind(1)  # [N] each
        total = pair_sums[0] / pair_sums[1].clamp(min=1) + self._frame_sums.sum()
        total = total + weights.scale_invariant * (square - mean.square()).mean()
        return total, self._by_disparity, self._by_uncertainty
