"""Which frames become keyframes: those that moved."""

from __future__ import annotations

import torch
from torch import Tensor

from megasam_server.models.cuda_graph import Replayed
from megasam_server.tracking.dense_slam.feature_bank import FrameFeatures
from megasam_server.tracking.dense_slam.network import Correlations, TrackingNetwork


class MotionFilter:
    """Compares each frame with the last keyframe by one step of the update operator."""

    def __init__(self, network: TrackingNetwork, correlations: Correlations, grid: Tensor) -> None:
        """``grid`` [h, w, 2]: pixel coordinates of the 1/8 grid."""
        self._network, self._correlations = network, correlations
        self._grid = grid[None]
        self._reference: FrameFeatures | None = None
        self._fmap: Tensor | None = None
        self._motion = grid.new_zeros(())
        self._compare = Replayed(self._update, grid.device)

    @property
    def reference(self) -> FrameFeatures | None:
        """Features of the last keyframe."""
        return self._reference

    @reference.setter
    def reference(self, features: FrameFeatures) -> None:
        if self._reference is None:
            self._reference = FrameFeatures(*(x.clone() for x in _tensors(features)))
        else:
            # In place: what is replayed finds its tensors where they were.
            for old, new in zip(_tensors(self._reference), _tensors(features), strict=True):
                old.copy_(new)

    def motion(self, fmap: Tensor) -> float:
        """Mean flow, 1/8 pixels, from the last keyframe to the frame with features ``fmap`` [128, h, w]."""
        if self._fmap is None:
            self._fmap = torch.empty_like(fmap)
        self._fmap.copy_(fmap)
        self._compare()
        return float(self._motion)

    def _update(self) -> None:
        last = self._reference
        corr = self._correlations.volume(last.fmap[None], self._fmap[None]).lookup(self._grid)
        update = self._network.update(
            last.net[None], last.inp[None], corr, None, None, with_upmask=False
        )
        self._motion.copy_(update.delta.float().norm(dim=-1).mean())


def _tensors(features: FrameFeatures) -> tuple[Tensor, Tensor, Tensor]:
    return features.fmap, features.net, features.inp
