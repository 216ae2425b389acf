"""What the motion of the camera can tell: depth without a prior, and the focal length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from megasam_server.geometry.dense_bundle import observability
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.options import TrackerOptions


@dataclass(frozen=True)
class Observability:
    """Information of the edges with unit weights (MegaSaM, section 3.2: "uncertainty").

    Attributes:
        median_hessian: median over pixels of the information about their disparity; small = little parallax.
        median_calib: information about the focal length, summed over all residuals.
        residuals: how many there are.
    """

    median_hessian: float
    median_calib: float
    residuals: int

    @classmethod
    def of(cls, store: KeyframeStore, edges: np.ndarray) -> Observability:
        """Of the present estimate of the store, over ``edges`` [E, 2]."""
        scene = store.poses, store.disps, store.intrinsics
        hessian, calib = observability(*scene, *store.on_device(edges))
        return cls(float(hessian), float(calib), 2 * len(edges) * store.disps[0].numel())

    def focal_is_observable(self, options: TrackerOptions) -> bool:
        if options.reference_behaviour:
            return self.median_calib >= options.min_focal_hessian
        return self.median_calib >= options.min_focal_hessian_per_residual * self.residuals

    def prior_weight(self, options: TrackerOptions) -> float:
        """How much the depth prior counts: not at all when the parallax is enough."""
        if self.median_hessian >= options.min_depth_hessian:
            return 0.0
        return options.global_prior_weight * math.exp(-options.prior_decay * self.median_hessian)


def parallax(store: KeyframeStore, edges: np.ndarray) -> float:
    """Largest mean flow, 1/8 pixels, that the translation between two linked frames alone causes."""
    # Frames that hardly overlap are at an arbitrary large distance, as they should here.
    return float(store.distance(*store.on_device(edges), beta=0.0).max())
