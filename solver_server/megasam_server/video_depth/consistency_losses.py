"""The five losses of consistent video depth (MegaSaM, arXiv:2412.04463, section 3.3).

Two compare frames along the flow (:func:`pair_sums`), three hold each frame near the disparity that
it came with. All are plain tensor functions without a loop, so that they
differentiate and run on any device.

N frames of h x w pixels. Disparity is inverse depth, from :data:`LEAST` to :data:`MOST`. Pixel centres
are at integers, except in :func:`surface_normals`, which keeps the reference's + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from kornia.filters import sobel
from torch import Tensor
from torch.nn import functional as F

from megasam_server.flow.consistency import warp
from megasam_server.video_depth.image_filters import gaussian_blur, sobel_gradients

LEAST, MOST = 1e-3, 1e3
"""Range of a disparity, and of a depth."""

MOST_COMPARED = 1e2
"""Largest disparity in the ratio of two."""

LEAST_DEPTH = 0.1
"""In front of the target's camera; what is nearer does not count."""

UNCERTAINTY_COST = 0.25
"""Times log(1/u): what a pixel pays for its uncertainty u."""

SCALES = (1, 2, 4, 8)
"""Pixels between those that the gradient loss compares."""


@dataclass(frozen=True)
class FlowPairs:
    """P ordered pairs of frames with the flow between them.

    Attributes:
        source, target: int64 [P], frames.
        flow: [P,2,h,w], pixels, any floating type: source pixel p is seen at p + flow in the target.
        mask: bool [P,h,w], where the flow can be trusted.
        projection: float32 [P,3,4]: homogeneous target pixel ~ projection (x, y, 1, disparity).
    """

    source: Tensor
    target: Tensor
    flow: Tensor
    mask: Tensor
    projection: Tensor

    @classmethod
    def between(
        cls,
        source: Tensor,
        target: Tensor,
        flow: Tensor,
        mask: Tensor,
        world_from_cam: Tensor,
        intrinsics: Tensor,
    ) -> FlowPairs:
        """Pairs of solved frames.

        Args:
            world_from_cam: [N,4,4]. intrinsics: [N,4] or [4], (fx, fy, cx, cy) of the h x w image.
        """
        cameras = camera_matrices(intrinsics.expand(len(world_from_cam), 4)).double()  # [N,3,3]
        to_world = world_from_cam.double()  # [N,4,4]
        relative = torch.linalg.inv(to_world[target]) @ to_world[source]  # [P,4,4]
        rotation = cameras[target] @ relative[:, :3, :3] @ torch.linalg.inv(cameras[source])
        translation = cameras[target] @ relative[:, :3, 3:]  # [P,3,1]
        projection = torch.cat([rotation, translation], 2).float()  # [P,3,4]
        return cls(source, target, flow, mask, projection)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: slice | Tensor) -> FlowPairs:
        """Some of the pairs."""
        return FlowPairs(
            self.source[index],
            self.target[index],
            self.flow[index],
            self.mask[index],
            self.projection[index],
        )

    def counted_from(self, frame: int) -> FlowPairs:
        """The same pairs where ``frame`` is called 0."""
        return replace(self, source=self.source - frame, target=self.target - frame)

    def to(self, device: torch.device) -> FlowPairs:
        """The same pairs on a device."""
        return FlowPairs(
            self.source.to(device),
            self.target.to(device),
            self.flow.to(device, non_blocking=True),
            self.mask.to(device, non_blocking=True),
            self.projection.to(device),
        )


def camera_matrices(intrinsics: Tensor) -> Tensor:
    """(fx, fy, cx, cy) [...,4] -> [...,3,3]."""
    fx, fy, cx, cy = intrinsics.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).unflatten(-1, (3, 3))


def pair_sums(
    disparity: Tensor, uncertainty: Tensor, pairs: FlowPairs
) -> tuple[Tensor, Tensor, Tensor]:
    """What the two losses between frames sum over pixels.

    The errors are weighted by the source's uncertainty u (in effect a precision: small u forgives an
    error, at a cost of 0.25 log(1/u)). Of all pairs, with the three sums of this function,
    ``ratio loss = ratio / weight`` and ``flow loss = flow / (2 weight)``.

    Args:
        disparity, uncertainty: [N,h,w], positive.
        pairs: on the same device.

    Returns:
        ratio: of the larger to the smaller of the target's disparity where the flow leads and the
            source's, brought there; minus 1.
        flow: distance between where the flow leads and where the cameras project, both axes.
        weight: number of pixels that count: trusted flow, and in front of the target's camera.
    """
    height, width = disparity.shape[-2:]
    x = torch.arange(width, device=disparity.device, dtype=disparity.dtype)  # [w]
    y = torch.arange(height, device=disparity.device, dtype=disparity.dtype)[:, None]  # [h,1]
    u = uncertainty.index_select(0, pairs.source)  # [P,h,w]

    # The target's homogeneous pixel, times depth, is projection (x, y, 1, d) / d.
    depth = 1 / disparity.index_select(0, pairs.source)  # [P,h,w]
    m = pairs.projection.to(disparity.dtype)[..., None, None]  # [P,3,4,1,1]
    px, py, pz = (
        (m[:, k, 0] * x + m[:, k, 1] * y + m[:, k, 2]) * depth + m[:, k, 3] for k in range(3)
    )  # [P,h,w] each
    counted = (pairs.mask & (pz > LEAST_DEPTH)).to(disparity.dtype)  # [P,h,w]

    at_x, at_y = x + pairs.flow[:, 0], y + pairs.flow[:, 1]  # [P,h,w] each
    other = disparity.index_select(0, pairs.target)[:, None]  # [P,1,h,w]
    seen = warp(other, pairs.flow.to(disparity.dtype))[:, 0]  # [P,h,w]
    seen = seen.clamp(LEAST, MOST_COMPARED)
    brought = (1 / pz.clamp(LEAST_DEPTH, MOST)).clamp(LEAST, MOST_COMPARED)  # [P,h,w]
    ratio_error = torch.maximum(seen / brought, brought / seen) - 1  # [P,h,w]

    per_depth = 1 / pz.clamp(LEAST, MOST)  # [P,h,w]
    flow_error = (px * per_depth - at_x).abs() + (py * per_depth - at_y).abs()  # [P,h,w]

    cost = -UNCERTAINTY_COST * u.log()  # [P,h,w]
    ratio_sum = ((ratio_error * u + cost) * counted).sum()
    flow_sum = ((flow_error * u + 2 * cost) * counted).sum()
    return ratio_sum, flow_sum, counted.sum()


def scale_invariant_loss(disparity: Tensor, prior: Tensor) -> Tensor:
    """Variance over each frame of log prior - log disparity, averaged over frames (Eigen 2014).

    Args:
        disparity, prior: [N,h,w], positive.
    """
    difference = (prior.log() - disparity.log()).flatten(1)  # [N,h*w]
    return (difference.square().mean(1) - difference.mean(1).square()).mean()


def gradient_loss(disparity: Tensor, prior: Tensor) -> Tensor:
    """Differences of the gradients of log disparity, at four scales.

    Only pixels nearer than unit depth count, and those more whose edges are of different strength.

    Args:
        disparity, prior: [N,h,w], positive.
    """
    log_disparity, log_prior = disparity.log(), prior.log()
    total = disparity.new_zeros(())
    for scale in SCALES:
        if min(disparity.shape[1:]) < 3 * scale:
            break  # no pixel has a neighbour on each side
        ours, other = (_nearest(values, scale) for values in (log_disparity, log_prior))
        ours_x, ours_y = _central_differences(ours)  # [N,h',w'] each
        other_x, other_y = _central_differences(other)
        strength = ours_x.abs() + ours_y.abs() - other_x.abs() - other_y.abs()
        near = ours[:, 1:-1, 1:-1] > 0
        weight = ((1 - torch.exp(-5 * strength.abs())) * near).detach()  # [N,h',w']
        difference = (ours_x - other_x).abs() + (ours_y - other_y).abs()
        total = total + (difference * weight).mean()
    return total


def _nearest(values: Tensor, scale: int) -> Tensor:
    """[N,h,w] -> [N,h/scale,w/scale], the middle pixel of each block."""
    if scale == 1:
        return values
    return F.interpolate(values[:, None], scale_factor=1 / scale, mode="nearest-exact")[:, 0]


def _central_differences(values: Tensor) -> tuple[Tensor, Tensor]:
    """Differences over two pixels along x and along y of the interior: [N,h-2,w-2] each."""
    return (
        values[:, 1:-1, 2:] - values[:, 1:-1, :-2],
        values[:, 2:, 1:-1] - values[:, :-2, 1:-1],
    )


def surface_normals(disparity: Tensor, intrinsics: Tensor) -> Tensor:
    """Unit normals [N,3,h,w] of the surface that the blurred depth describes, in camera axes.

    Args:
        disparity: [N,h,w]. intrinsics: [N,4] or [4], (fx, fy, cx, cy).
    """
    height, width = disparity.shape[-2:]
    depth = gaussian_blur(1 / disparity)  # [N,h,w]
    fx, fy, cx, cy = intrinsics.to(disparity.dtype).expand(len(depth), 4)[..., None, None].unbind(1)
    x = torch.arange(width, device=depth.device, dtype=depth.dtype) + 0.5  # [w]
    y = torch.arange(height, device=depth.device, dtype=depth.dtype)[:, None] + 0.5  # [h,1]
    points = torch.stack([(x - cx) / fx * depth, (y - cy) / fy * depth, depth], 1)  # [N,3,h,w]
    along_x, along_y = sobel_gradients(points)  # [N,3,h,w] each
    return F.normalize(torch.linalg.cross(along_x, along_y, dim=1), dim=1)


def flatness_weight(prior: Tensor) -> Tensor:
    """How much the normals count, [N,h,w]: 1.2 where the disparity is flat, 0.2 on its edges.

    Args:
        prior: [N,h,w], not clamped.
    """
    edges = sobel(prior[:, None], normalized=False)[:, 0]  # [N,h,w]
    return torch.where(torch.exp(-10 * edges) > 0.2, 1.2, 0.2).to(prior.dtype)


def normal_loss(normals: Tensor, prior_normals: Tensor, weight: Tensor) -> Tensor:
    """Mean of weight (1 - cosine): [N,3,h,w], [N,3,h,w], [N,h,w]."""
    return (weight * (1 - (normals * prior_normals).sum(1))).mean()
