"""Which frames become keyframes: those that moved."""

from __future__ import annotations

from torch import Tensor

from megasam_server.tracking.dense_slam.feature_bank import FrameFeatures
from megasam_server.tracking.dense_slam.network import Correlations, TrackingNetwork


class MotionFilter:
    """Compares each frame with the last keyframe by one step of the update operator.

    Attributes:
        reference: features of the last keyframe.
    """

    def __init__(self, network: TrackingNetwork, correlations: Correlations, grid: Tensor) -> None:
        """``grid`` [h, w, 2]: pixel coordinates of the 1/8 grid."""
        self._network, self._correlations = network, correlations
        self._grid = grid[None]
        self.reference: FrameFeatures | None = None

    def motion(self, fmap: Tensor) -> float:
        """Mean flow, 1/8 pixels, from the last keyframe to the frame with features ``fmap`` [128, h, w]."""
        last = self.reference
        corr = self._correlations.volume(last.fmap[None], fmap[None]).lookup(self._grid)
        update = self._network.update(
            last.net[None], last.inp[None], corr, None, None, with_upmask=False
        )
        return float(update.delta.float().norm(dim=-1).mean())
