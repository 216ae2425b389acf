"""The window that slides over the clip: a small graph around the newest keyframes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from megasam_server.geometry import se3
from megasam_server.tracking.dense_slam.factor_graph import FactorGraph
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.network import Correlations, TrackingNetwork
from megasam_server.tracking.dense_slam.proximity import neighbours


class Frontend:
    """Keeps the newest keyframes in adjustment, and removes those that add nothing.

    Attributes:
        initialised: whether there were enough keyframes to start.
    """

    def __init__(
        self, store: KeyframeStore, network: TrackingNetwork, correlations: Correlations
    ) -> None:
        self._store, self._options = store, store.options
        self._networks = network, correlations
        self._graph = FactorGraph(store, *self._networks, self._options.max_edges)
        self.initialised = False

    def predicted_pose(self) -> Tensor:
        """cam_from_world [7] to start the next keyframe from: that of the last."""
        if not self.initialised:
            return se3.identity(device=self._store.device)
        return self._store.poses[-1].clone()

    def predicted_disparity(self) -> Tensor:
        """Disparity [] to start the next keyframe from where it has no prior."""
        if not self.initialised:
            return torch.ones((), device=self._store.device)
        return self._store.disps[-1].mean()

    def keyframe_added(self, is_last: bool = False) -> None:
        """Take the newest keyframe of the store in; with ``is_last`` start with as few as there are."""
        if self.initialised:
            self._take_in()
        elif len(self._store) == self._options.warmup or (is_last and len(self._store) > 1):
            self._initialise()

    def finish(self) -> None:
        """There will be no more keyframes: what was kept for them may go."""
        self._graph = FactorGraph(self._store, *self._networks, self._options.max_edges)

    def _initialise(self) -> None:
        options, graph = self._options, self._graph
        graph.add(neighbours(len(self._store), options.initial_neighbours))
        # Without a prior all disparities are the same: poses alone would fit a wall.
        first_poses = self._store.has_prior or options.reference_behaviour
        graph.update(options.initial_iterations, 1, use_resting=True, motion_only=first_poses)
        graph.add_by_proximity(0, 0, options.initial_proximity)
        graph.update(options.initial_iterations, 1, use_resting=True, motion_only=first_poses)
        graph.update(options.initial_iterations, 1, use_resting=True)
        graph.drop(graph.edges[:, 0] < options.warmup - 4, rest=True)
        self.initialised = True

    def _take_in(self) -> None:
        options, store, graph = self._options, self._store, self._graph
        graph.drop_aged()
        count = len(store)
        # Edges begin within the window, and those that are still active not far behind it: only flow
        # near the first of these counts.
        graph.forget_before(count - 2 * options.window)
        graph.add_by_proximity(
            max(count - options.recent, 0),
            max(count - options.window, 0),
            options.proximity,
            drop_oldest=True,
        )
        prior = store.priors[-1]
        store.disps[-1] = torch.where(prior > 0, prior, store.disps[-1])
        more = graph.update(options.iterations, use_resting=True)
        pair = store.on_device(np.array([[count - 3, count - 2]]))
        distance = store.distance(*pair, options.proximity.beta)
        if float(distance) < options.keyframe_threshold:
            graph.remove_keyframe(count - 2)
        else:
            more(options.extra_iterations)
