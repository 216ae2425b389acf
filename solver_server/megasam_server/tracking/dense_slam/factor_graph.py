"""Edges between frames: predicted flow with its confidence, refined by the update operator."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from megasam_server.geometry.dense_bundle import BundleOptions
from megasam_server.geometry.edge_topology import EdgeTopology
from megasam_server.models.cuda_graph import Replayed
from megasam_server.models.droid_net import EdgeSources
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.network import (
    Correlations,
    EdgeCorrelation,
    TrackingNetwork,
)
from megasam_server.tracking.dense_slam.options import ProximityRule, TrackerOptions
from megasam_server.tracking.dense_slam.proximity import candidates, proximity_edges


class FactorGraph:
    """A graph that changes with every keyframe. Edges that leave may rest: they keep their flow and still count.

    Attributes:
        edges: [E, 2] integers, source and target slot of the active edges.
        resting: [R, 2] the same of the resting edges.
        forgotten: [F, 2] the same of edges whose flow is gone; they are not added again.
        ages: [E] how many updates each active edge has seen.
        net: [E, 128, h, w] hidden state of the update operator.
        target, weight: [E, h, w, 2] where each pixel goes, pixels of the 1/8 grid, and how surely.
    """

    def __init__(
        self,
        store: KeyframeStore,
        network: TrackingNetwork,
        correlations: Correlations,
        max_edges: float = math.inf,
    ) -> None:
        self.store, self.options = store, store.options
        self._network, self._correlations = network, correlations
        self._max_edges = max_edges
        grid, options = store.grid, store.options
        height, width = grid.shape[:2]
        self.edges = np.empty((0, 2), int)
        self.ages = np.empty(0, int)
        self.net = torch.empty(
            0, 128, height, width, device=grid.device, dtype=options.feature_dtype
        )
        self.target = grid.new_empty(0, height, width, 2)
        self.weight = self.target
        self.resting = np.empty((0, 2), int)
        self.forgotten = np.empty((0, 2), int)
        self._resting_target = self.target
        self._resting_weight = self.target
        self._corr: EdgeCorrelation | None = None
        self._keeps_volumes = volume_bytes(height * width, options) <= options.max_volume_bytes
        self._eta = grid.new_empty(0, height, width)

    def add(self, edges: np.ndarray, drop_oldest: bool = False) -> None:
        """Add those of ``edges`` [K, 2] that the graph has not, active or resting.

        With ``drop_oldest`` the oldest active edges go to rest when there would be too many.
        """
        edges = edges[~_contains(self._known(), edges)]
        if len(edges) == 0:
            return
        excess = len(self.edges) + len(edges) - self._max_edges
        if drop_oldest and excess > 0 and len(self.edges):
            self.drop(self._oldest(int(excess)), rest=True)
        sources, targets = edges.T.tolist()
        if self._keeps_volumes:
            corr = self._correlations.volume(self.store.fmaps(sources), self.store.fmaps(targets))
            self._corr = corr if self._corr is None else self._corr.cat(corr)
        target = self.store.reproject(*self.store.on_device(edges))
        self.edges = np.concatenate([self.edges, edges])
        self.ages = np.concatenate([self.ages, np.zeros(len(edges), int)])
        # As the network makes them: else each update would turn them round twice.
        net = torch.cat([self.net, self.store.nets(sources)])
        self.net = net.contiguous(memory_format=torch.channels_last)
        self.target = torch.cat([self.target, target])
        self.weight = torch.cat([self.weight, torch.zeros_like(target)])

    def add_by_proximity(
        self, first_i: int, first_j: int, rule: ProximityRule, drop_oldest: bool = False
    ) -> None:
        """Add edges from frames ``first_i`` on to frames ``first_j`` on, both ways; see :mod:`.proximity`."""
        edges = edges_by_proximity(
            self.store, first_i, first_j, self._known(), rule, self._max_edges
        )
        self.add(edges, drop_oldest)

    def drop(self, mask: np.ndarray, rest: bool = False) -> None:
        """Drop the active edges of ``mask`` [E]; with ``rest`` they keep their flow and rest."""
        if not mask.any():
            return
        if rest:
            gone = self._places(mask)
            self.resting = np.concatenate([self.resting, self.edges[mask]])
            self._resting_target = torch.cat([self._resting_target, self.target[gone]])
            self._resting_weight = torch.cat([self._resting_weight, self.weight[gone]])
        kept = self._places(~mask)
        self.edges, self.ages = self.edges[~mask], self.ages[~mask]
        if self._corr is not None:
            self._corr = self._corr[kept]
        self.net = self.net[kept]
        self.target, self.weight = self.target[kept], self.weight[kept]

    def drop_aged(self) -> None:
        """Edges that have seen many updates go to rest."""
        self.drop(self.ages > self.options.max_age, rest=True)

    def forget_before(self, slot: int) -> None:
        """Resting edges that touch a frame before ``slot`` will not count any more: their flow goes."""
        far = (self.resting < slot).any(axis=1)
        self.forgotten = np.concatenate([self.forgotten, self.resting[far]])
        self._drop_resting(far)

    def remove_keyframe(self, slot: int) -> None:
        """Take a frame and its edges out of the graph and of the store."""
        self._drop_resting((self.resting == slot).any(axis=1))
        self.drop((self.edges == slot).any(axis=1))
        self.forgotten = self.forgotten[(self.forgotten != slot).all(axis=1)]
        for edges in (self.edges, self.resting, self.forgotten):
            edges[edges > slot] -= 1
        self._eta = torch.cat([self._eta[:slot], self._eta[slot + 1 :]])
        self.store.remove(slot)

    def update(
        self,
        iterations: int,
        first_free: int | None = None,
        end: int | None = None,
        use_resting: bool = False,
        motion_only: bool = False,
    ) -> Callable[[int], None]:
        """Update operator on all active edges, then bundle adjustment, ``iterations`` times.

        Args:
            first_free: first slot whose pose is adjusted; by default the second source frame.
            end: one behind the last; by default the last frame that has an edge.
            use_resting: resting edges not far behind ``first_free`` count in the bundle.
            motion_only: adjust the poses only.

        Returns:
            Does more iterations of the same, as long as graph and store keep their edges and frames.
        """
        options, store = self.options, self.store
        if first_free is None:
            first_free = max(1, int(self.edges[:, 0].min()) + 1)
        resting = self.resting >= first_free - options.inactive_reach
        chosen = np.flatnonzero(resting.all(axis=1)) if use_resting else np.empty(0, int)
        all_edges = np.concatenate([self.resting[chosen], self.edges])
        if end is None:
            end = int(all_edges.max()) + 1
        bundle = BundleOptions(
            iterations=options.bundle_iterations,
            lm=options.damping,
            ep=options.damping_floor,
            alpha=options.prior_weight,
            motion_only=motion_only,
        )
        ii, jj = store.on_device(self.edges)
        chosen = torch.from_numpy(chosen).to(store.device)
        resting_target, resting_weight = self._resting_target[chosen], self._resting_weight[chosen]
        sources = EdgeSources.of(ii)
        source_frames = np.unique(self.edges[:, 0]).tolist()
        inp = self._network.source_inputs(store.inps(source_frames))[sources.index]
        keep = store.keeps[ii, ..., None]
        pixels = store.disps[0].numel()
        topology = EdgeTopology.build(
            all_edges, first_free, end, pixels, store.device, options.bundle_pixels
        )
        self._extend_eta()
        look_up = self._correlation()

        def iterate() -> None:
            coords = store.reproject(ii, jj)
            motion = motion_features(coords, self.target, store.grid, options.max_motion)
            step = self._network.update(
                self.net, inp, look_up(coords), motion, sources, with_upmask=False
            )
            # In place: what is replayed finds its tensors where they were.
            self.net.copy_(step.net)
            self.target.copy_(coords + step.delta.float())
            self.weight.copy_(step.motion_weight.float() * keep)
            self._eta[sources.frames] = step.eta.float()
            store.bundle_adjust(
                torch.cat([resting_target, self.target]),
                torch.cat([resting_weight, self.weight]),
                self._eta + options.min_eta,
                topology,
                bundle,
            )

        replayed = Replayed(iterate, store.device)

        def more(iterations: int) -> None:
            for _ in range(iterations):
                replayed()
            self.ages += iterations

        more(iterations)
        return more

    def _known(self) -> np.ndarray:
        """All edges that there are or were, [K, 2]."""
        return np.concatenate([self.edges, self.resting, self.forgotten])

    def _places(self, mask: np.ndarray) -> Tensor:
        """Where ``mask`` is true, on the device: to choose by a mask would wait for the device each time."""
        return torch.from_numpy(np.flatnonzero(mask)).to(self.store.device)

    def _drop_resting(self, mask: np.ndarray) -> None:
        if not mask.any():
            return
        kept = self._places(~mask)
        self.resting = self.resting[~mask]
        self._resting_target = self._resting_target[kept]
        self._resting_weight = self._resting_weight[kept]

    def _correlation(self) -> Callable[[Tensor], Tensor]:
        """The windows [E, 196, h, w] of the active edges around coordinates [E, h, w, 2]."""
        if self._corr is not None:
            return self._corr.lookup
        frames, local = np.unique(self.edges, return_inverse=True)
        ii, jj = self.store.on_device(local.reshape(-1, 2))
        compared = self._correlations.on_the_fly(self.store.fmaps(frames.tolist()))
        return lambda coords: compared.lookup(coords, ii, jj)

    def _oldest(self, count: int) -> np.ndarray:
        """Mask of the active edges that make room for ``count`` others."""
        order = np.argsort(self.ages, kind="stable")
        if self.options.reference_behaviour:
            # The reference compares positions with indices: right only while edges are sorted by age.
            return order >= len(self.edges) - count
        mask = np.zeros(len(order), bool)
        # Of the same age the first added goes first.
        mask[np.argsort(-self.ages, kind="stable")[:count]] = True
        return mask

    def _extend_eta(self) -> None:
        missing = len(self.store) - len(self._eta)
        new = self._eta.new_full((missing, *self._eta.shape[1:]), self.options.initial_eta)
        self._eta = torch.cat([self._eta, new])


def motion_features(coords: Tensor, target: Tensor, grid: Tensor, limit: float) -> Tensor:
    """What the update operator sees of the motion, [E, 4, h, w]: flow of the cameras, and what is left to the target.

    Args:
        coords, target: [E, h, w, 2] reprojection, and the last prediction of it.
        grid: [h, w, 2].
        limit: largest value, 1/8 pixels.
    """
    motion = torch.cat([coords - grid, target - coords], dim=-1)
    return motion.permute(0, 3, 1, 2).clamp(-limit, limit)


def edges_by_proximity(
    store: KeyframeStore,
    first_i: int,
    first_j: int,
    existing: np.ndarray,
    rule: ProximityRule,
    max_edges: float,
) -> np.ndarray:
    """:func:`.proximity.proximity_edges` of the frames of the store, [K, 2]; one look at the device."""
    pairs = candidates(first_i, first_j, len(store), rule.radius)
    distances = store.distance(*store.on_device(pairs), rule.beta).cpu().numpy()
    return proximity_edges(pairs, distances, first_i, len(store), existing, rule, max_edges)


def _contains(edges: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of ``wanted`` [K, 2] are among ``edges`` [E, 2]."""
    base = 1 + max(edges.max(initial=0), wanted.max(initial=0))
    return np.isin(wanted @ (base, 1), edges @ (base, 1))


def volume_bytes(pixels: int, options: TrackerOptions) -> int:
    """Largest memory of the volumes of a full graph: all levels, twice while edges are added."""
    return 2 * options.max_edges * pixels**2 * 4 // 3 * options.feature_dtype.itemsize
