"""The total loss of consistent video depth and its gradient, whatever the length of the clip.

Both are sums over pairs and means over frames, so they are gathered over chunks: the memory that
automatic differentiation needs is that of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from megasam_server.video_depth.consistency_losses import (
    FlowPairs,
    gradient_loss,
    normal_loss,
    pair_sums,
    scale_invariant_loss,
    surface_normals,
)


@dataclass(frozen=True)
class LossWeights:
    """Share of each loss in the total; the numbers of the MegaSaM scripts for free pixels."""

    ratio: float = 1.0
    flow: float = 0.2
    scale_invariant: float = 1.0
    gradient: float = 2.0
    normal: float = 5.0


class Objective:
    """The total loss of a disparity and an uncertainty.

    Args:
        prior: [N,h,w], what the disparity is held near, in range.
        flatness: [N,h,w], see :func:`~megasam_server.video_depth.consistency_losses.flatness_weight`.
        intrinsics: [N,4], (fx, fy, cx, cy).
        pairs: on the device of ``prior``.
        weights: of the losses.
        pixels_at_once: of pairs, and of frames, that are differentiated together.
    """

    capturable = False

    def __init__(
        self,
        prior: Tensor,
        flatness: Tensor,
        intrinsics: Tensor,
        pairs: FlowPairs,
        weights: LossWeights,
        pixels_at_once: int,
    ) -> None:
        self._weights = weights
        size = max(1, pixels_at_once // prior[0].numel())
        self._chunks = list(_chunks(pairs, size))
        self._frames = [slice(start, start + size) for start in range(0, len(prior), size)]
        normals = torch.cat([surface_normals(prior[f], intrinsics[f]) for f in self._frames])
        self._held = (prior, normals, flatness, intrinsics)

    def __call__(self, disparity: Tensor, uncertainty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The total, and its gradients by the two arguments, [N,h,w] each.

        Args:
            disparity, uncertainty: [N,h,w], in range.
        """
        by_disparity, by_uncertainty = torch.zeros_like(disparity), torch.zeros_like(uncertainty)
        total, weight = disparity.new_zeros(()), disparity.new_zeros(())
        for window, chunk in self._chunks:
            (chunk_disparity, chunk_uncertainty), (value, counted) = _PAIR_GRADIENTS(
                disparity[window], uncertainty[window], chunk, self._weights
            )
            by_disparity[window] += chunk_disparity
            by_uncertainty[window] += chunk_uncertainty
            total, weight = total + value, weight + counted
        # The number of pixels that count changes in steps: the division has no gradient of its own.
        share = 1 / weight.clamp(min=1)
        by_disparity *= share
        by_uncertainty *= share
        total = total * share
        for frames in self._frames:
            gradient, value = _FRAME_GRADIENT(
                disparity[frames], *(values[frames] for values in self._held), self._weights
            )
            part = len(gradient) / len(disparity)
            by_disparity[frames] += part * gradient
            total = total + part * value
        return total, by_disparity, by_uncertainty


def _chunks(pairs: FlowPairs, size: int) -> Iterator[tuple[slice, FlowPairs]]:
    """Chunks of pairs, each with the span of frames that it touches and counting from its first."""
    for start in range(0, len(pairs), size):
        chunk = pairs[start : start + size]
        frames = torch.cat([chunk.source, chunk.target])
        first, last = int(frames.min()), int(frames.max())
        yield slice(first, last + 1), chunk.counted_from(first)


def _pair_loss(
    disparity: Tensor, uncertainty: Tensor, pairs: FlowPairs, weights: LossWeights
) -> tuple[Tensor, Tensor]:
    """The losses between frames before the division by the weight of all pairs; this chunk's weight."""
    ratio, flow, weight = pair_sums(disparity, uncertainty, pairs)
    return weights.ratio * ratio + weights.flow / 2 * flow, weight


def _frame_loss(
    disparity: Tensor,
    prior: Tensor,
    prior_normals: Tensor,
    flatness: Tensor,
    intrinsics: Tensor,
    weights: LossWeights,
) -> Tensor:
    """The losses that hold frames near their prior, averaged over the frames of the chunk."""
    normals = surface_normals(disparity, intrinsics)  # [n,3,h,w]
    return (
        weights.scale_invariant * scale_invariant_loss(disparity, prior)
        + weights.gradient * gradient_loss(disparity, prior)
        + weights.normal * normal_loss(normals, prior_normals, flatness)
    )


_PAIR_GRADIENTS = torch.func.grad_and_value(_pair_loss, argnums=(0, 1), has_aux=True)
_FRAME_GRADIENT = torch.func.grad_and_value(_frame_loss)
