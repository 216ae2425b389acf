"""Frames of the factor graph: poses, disparities, priors and features."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from megasam_server.geometry.dense_bundle import BundleOptions, dense_bundle_adjust
from megasam_server.geometry.edge_topology import EdgeTopology
from megasam_server.geometry.projective import frame_distance, pixel_grid, projective_transform
from megasam_server.tracking.dense_slam.feature_bank import FeatureBank, FrameTensors
from megasam_server.tracking.dense_slam.options import TrackerOptions

# What a store holds of its frames, in tensors that have room for more.
_OF_FRAMES = ("_poses", "_disps", "_priors", "_keeps")


@dataclass(frozen=True)
class Estimate:
    """What bundle adjustment changes: poses [N, 7], disparities [N, h, w], intrinsics [4] of the 1/8 grid."""

    poses: Tensor
    disps: Tensor
    intrinsics: Tensor


class KeyframeStore:
    """Frames in the order of time; the slot of a frame is its index here.

    Nothing has a fixed size. Poses, disparities, priors and masks are small and stay on the device;
    features lie in a :class:`FeatureBank`, by frame number.

    Attributes:
        frame_numbers: index in the clip of the frame in each slot.
        times: time stamp of each slot. Equal to ``frame_numbers``, but with reference behaviour a removed keyframe
            leaves its time stamp behind.
        intrinsics: fx fy cx cy of the 1/8 grid, one camera for all frames.
        grid: [h, w, 2] pixel coordinates of the 1/8 grid.
    """

    def __init__(
        self,
        height: int,
        width: int,
        intrinsics: Tensor,
        features: FeatureBank,
        device: torch.device,
        options: TrackerOptions,
    ) -> None:
        """``height`` and ``width`` of the 1/8 grid; ``intrinsics`` [4] of that grid."""
        self.options = options
        self.device = device
        self.intrinsics = intrinsics.to(device, torch.float32, copy=True)
        self.grid = pixel_grid(height, width, torch.float32, device)
        self.frame_numbers: list[int] = []
        self.times: list[int] = []
        self.has_prior = False
        self._features = features
        self._context_frames: list[int | None] = []
        # (slot, frame): the context that the reference leaves behind the last slot on a removal.
        self._left_behind: tuple[int, int] | None = None
        self._poses = torch.zeros(0, 7, device=device)
        self._disps = torch.zeros(0, height, width, device=device)
        self._priors = torch.zeros(0, height, width, device=device)
        self._keeps = torch.zeros(0, height, width, device=device)

    def __len__(self) -> int:
        return len(self.frame_numbers)

    @property
    def poses(self) -> Tensor:
        """cam_from_world [N, 7]; a view."""
        return self._poses[: len(self)]

    @property
    def disps(self) -> Tensor:
        """Disparity [N, h, w]; a view."""
        return self._disps[: len(self)]

    @property
    def priors(self) -> Tensor:
        """Prior of the disparity [N, h, w], 0 = none; a view."""
        return self._priors[: len(self)]

    @property
    def keeps(self) -> Tensor:
        """How much the artist lets each pixel count [N, h, w], 0..1; a view."""
        return self._keeps[: len(self)]

    def append(
        self,
        frame_number: int,
        pose: Tensor,
        disps: Tensor,
        prior: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> None:
        """Add a frame behind the last.

        Args:
            pose: [7] cam_from_world.
            disps: [h, w] or [] initial disparity.
            prior: [h, w], 0 = none.
            keep: [h, w] 0..1; None = all of it.
        """
        one = (None if given is None else given[None] for given in (prior, keep))
        self.extend([frame_number], pose[None], disps, *one)

    def extend(
        self,
        frame_numbers: Sequence[int],
        poses: Tensor,
        disps: Tensor,
        priors: Tensor | None = None,
        keeps: Tensor | None = None,
    ) -> None:
        """Add K frames behind the last.

        Args:
            poses: [K, 7] cam_from_world.
            disps: initial disparities, [K, h, w] or what spreads to it.
            priors: [K, h, w], 0 = none.
            keeps: [K, h, w] 0..1; None = all of it.
        """
        start, end = len(self), len(self) + len(frame_numbers)
        if end > len(self._poses):
            self._grow(max(16, end, 2 * start))
        self.frame_numbers += frame_numbers
        self.times += frame_numbers
        self._context_frames += frame_numbers
        self._poses[start:end] = poses
        self._disps[start:end] = disps
        self._priors[start:end] = self._priors.new_zeros(()) if priors is None else priors
        self._keeps[start:end] = self._keeps.new_ones(()) if keeps is None else keeps
        self.has_prior |= priors is not None

    def part(self, start: int, end: int) -> KeyframeStore:
        """The frames in slots ``start`` to ``end - 1``, for their adjustment: what it changes, changes here too, but
        for the focal length. To be dropped before a frame is added or removed.
        """
        part = copy(self)
        for name in ("frame_numbers", "times", "_context_frames", *_OF_FRAMES):
            setattr(part, name, getattr(self, name)[start:end])
        return part

    def remove(self, slot: int) -> None:
        """Take a frame out; the slots behind it move up."""
        last = len(self) - 1
        self._left_behind = last, self._context_frames[-1]
        for name in _OF_FRAMES:
            tensor = getattr(self, name)
            tensor[slot:last] = tensor[slot + 1 : last + 1].clone()
        del self.frame_numbers[slot], self._context_frames[slot]
        del self.times[-1 if self.options.reference_behaviour else slot]

    def truncate(self, count: int) -> None:
        """Forget the frames from slot ``count`` on."""
        del self.frame_numbers[count:], self.times[count:], self._context_frames[count:]

    def take_context_of(self, other: KeyframeStore) -> None:
        """Use the context features of the slots of another store, as the reference does by mistake."""
        frames = list(other._context_frames)
        if other._left_behind is not None and other._left_behind[0] == len(frames):
            frames.append(other._left_behind[1])
        frames += [None] * len(self)
        self._context_frames = frames[: len(self)]

    def require_fmaps(self, slots: Sequence[int]) -> None:
        """See to it that the bank has what :meth:`fmaps` of these slots takes from it."""
        self._features.require_fmaps([self.frame_numbers[slot] for slot in slots])

    def require_contexts(self, slots: Sequence[int]) -> None:
        """See to it that the bank has what :meth:`nets` and :meth:`inps` of these slots take from it."""
        frames = [self._context_frames[slot] for slot in slots]
        self._features.require_contexts([frame for frame in frames if frame is not None])

    def fmaps(self, slots: Sequence[int]) -> Tensor:
        """Matching features [K, 128, h, w]."""
        return self._features.fmaps.stack([self.frame_numbers[slot] for slot in slots])

    def nets(self, slots: Sequence[int]) -> Tensor:
        """Hidden states [K, 128, h, w] that edges from these slots start with."""
        return self._context(self._features.nets, slots)

    def inps(self, slots: Sequence[int]) -> Tensor:
        """Inputs of the update operator [K, 128, h, w] for edges from these slots."""
        return self._context(self._features.inps, slots)

    def _context(self, tensors: FrameTensors, slots: Sequence[int]) -> Tensor:
        frames = [self._context_frames[slot] for slot in slots]
        if None not in frames:
            return tensors.stack(frames)
        # Only after take_context_of: slots that never had a context.
        known = [0 if frame is None else frame for frame in frames]
        missing = torch.tensor([frame is None for frame in frames], device=self.device)
        return tensors.stack(known).masked_fill(missing[:, None, None, None], 0.0)

    def estimate(self) -> Estimate:
        """A copy of what bundle adjustment changes."""
        return Estimate(self.poses.clone(), self.disps.clone(), self.intrinsics.clone())

    def restore(self, estimate: Estimate) -> None:
        self.poses.copy_(estimate.poses)
        self.disps.copy_(estimate.disps)
        self.intrinsics = estimate.intrinsics.clone()

    def normalise(self) -> None:
        """Set the mean disparity to 1: without a prior the scale of the world is free."""
        scale = self.disps.mean()
        self.disps.div_(scale)
        self.poses[:, :3].mul_(scale)

    def on_device(self, edges: np.ndarray) -> tuple[Tensor, Tensor]:
        """Sources and targets, [E] each, of ``edges`` [E, 2]."""
        return torch.from_numpy(edges).to(self.device).unbind(1)

    def reproject(self, ii: Tensor, jj: Tensor) -> Tensor:
        """Where the pixels of frames ``ii`` [E] lie in frames ``jj``: [E, h, w, 2] in pixels of the 1/8 grid."""
        return projective_transform(self.poses, self.disps, self.intrinsics, ii, jj)[0]

    def distance(self, ii: Tensor, jj: Tensor, beta: float) -> Tensor:
        """Mean flow between frames ``ii`` and ``jj`` both ways, [E]; 1000 where they hardly overlap."""
        return frame_distance(self.poses, self.disps, self.intrinsics, ii, jj, beta)

    def bundle_adjust(
        self,
        target: Tensor,
        weight: Tensor,
        eta: Tensor,
        topology: EdgeTopology,
        bundle: BundleOptions,
    ) -> None:
        """:func:`dense_bundle_adjust` of the store, in place; without the prior where it has no weight.

        Args:
            target, weight: [E, h, w, 2].
            eta: [N, h, w] damping of each frame's disparity.
        """
        state = dense_bundle_adjust(
            self.poses,
            self.disps,
            self.intrinsics,
            self.priors if bundle.alpha > 0 else torch.zeros_like(self.priors),
            target,
            weight,
            eta,
            topology,
            replace(bundle, reference_quirks=self.options.reference_behaviour),
        )
        self.poses.copy_(state.poses)
        self.disps.copy_(state.disps)
        self.intrinsics.copy_(state.intrinsics)

    def _grow(self, capacity: int) -> None:
        for name in _OF_FRAMES:
            old = getattr(self, name)
            new = old.new_zeros(capacity, *old.shape[1:])
            new[: len(old)] = old
            setattr(self, name, new)
