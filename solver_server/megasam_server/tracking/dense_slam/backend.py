"""Bundle adjustment of all frames at once, over every pair that sees much of the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from megasam_server.geometry.dense_bundle import BundleOptions
from megasam_server.geometry.edge_topology import EdgeTopology
from megasam_server.models.cuda_graph import Replayed
from megasam_server.models.droid_net import EdgeSources
from megasam_server.tracking.dense_slam.factor_graph import edges_by_proximity, motion_features
from megasam_server.tracking.dense_slam.hidden_states import HiddenStates
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.network import (
    Correlations,
    FrameCorrelation,
    SourceInputs,
    TrackingNetwork,
)


@dataclass(frozen=True)
class GlobalRule:
    """How one global adjustment goes about it.

    Attributes:
        steps: how often the update operator runs.
        optimise_focal: refine the focal length too.
        prior_weight: how much the depth prior counts; 0 = not at all.
    """

    steps: int
    optimise_focal: bool
    prior_weight: float


@dataclass(frozen=True)
class _Chunk:
    """Some source frames with all of their edges: what goes through the network at a time.

    Attributes:
        edges: [K] positions among all edges.
        ii, jj: [K] frames.
        sources: the different source frames; ``source_frames`` on the host.
        frames: all frames of the chunk, as the features are stacked.
        local_ii, local_jj: [K] positions among ``frames``.
    """

    edges: Tensor
    ii: Tensor
    jj: Tensor
    sources: EdgeSources
    source_frames: list[int]
    frames: list[int]
    local_ii: Tensor
    local_jj: Tensor


@dataclass(frozen=True)
class GlobalResult:
    """What the adjustment tells beside what it leaves in the store.

    Attributes:
        edges: [E, 2] the pairs of frames.
        static_probability: [N, h, w] of each frame, mean over its edges; 1 = static, 0 also where masked.
    """

    edges: np.ndarray
    static_probability: Tensor


def adjust_all(
    store: KeyframeStore,
    network: TrackingNetwork,
    correlations: Correlations,
    rule: GlobalRule,
    on_step: Callable[[int, int], None] | None = None,
    first_free: int = 1,
    end: int | None = None,
) -> GlobalResult:
    """Adjust all frames of the store, but the poses of those before slot ``first_free`` and from slot ``end`` on.

    Features and hidden states pass through the network ``global_chunk`` source frames at a time, and the correlation is
    computed on the fly. What the steps need of the frames is made once where it fits on the device; otherwise of each
    chunk in every step, from features that come from the host.

    Args:
        on_step: called with (done, total) steps; may raise to stop.
    """
    options = store.options
    count = len(store)
    edges = edges_by_proximity(
        store,
        0,
        0,
        np.empty((0, 2), int),
        options.global_proximity,
        options.global_edges_per_frame * count,
    )
    chunks = _chunks(store, edges)
    # As many frames as this have their features on the device all at once.
    together = count <= options.max_keyframes
    everything = None
    if together:
        frames = range(count)
        everything = (
            correlations.on_the_fly(store.fmaps(frames)),
            network.source_inputs(store.inps(frames)),
        )
    states = HiddenStates(store.device, options.max_state_bytes)
    for number, chunk in enumerate(chunks):
        states[number] = store.nets(chunk.source_frames)[chunk.sources.index]
    target = store.reproject(*store.on_device(edges))
    weight = torch.empty_like(target)
    eta = torch.full_like(store.disps, options.initial_eta)
    static = torch.zeros_like(store.disps)
    bundle = BundleOptions(
        iterations=options.focal_iterations if rule.optimise_focal else options.bundle_iterations,
        lm=options.global_damping,
        ep=options.global_damping_floor,
        alpha=rule.prior_weight,
        optimise_focal=rule.optimise_focal,
    )
    topology = EdgeTopology.build(
        edges,
        first_free,
        end or count,
        store.disps[0].numel(),
        store.device,
        options.bundle_pixels,
    )

    def seen_by(chunk: _Chunk) -> tuple[FrameCorrelation, Tensor, Tensor, SourceInputs]:
        """Correlation between frames, which of them the edges lead from and to, and their inputs."""
        if everything is not None:
            correlation, inputs = everything
            return correlation, chunk.ii, chunk.jj, inputs[chunk.ii]
        inp = network.source_inputs(store.inps(chunk.source_frames))[chunk.sources.index]
        correlation = correlations.on_the_fly(store.fmaps(chunk.frames))
        return correlation, chunk.local_ii, chunk.local_jj, inp

    def iterate() -> None:
        for number, chunk in enumerate(chunks):
            at = chunk.edges
            coords = store.reproject(chunk.ii, chunk.jj)
            motion = motion_features(coords, target[at], store.grid, options.max_motion)
            correlation, i, j, inp = seen_by(chunk)
            corr = correlation.lookup(coords, i, j)
            update = network.update(
                states[number], inp, corr, motion, chunk.sources, with_upmask=False
            )
            states[number] = update.net.to(options.feature_dtype)
            target[at] = coords + update.delta.float()
            weight[at] = update.motion_weight.float() * store.keeps[chunk.ii, ..., None]
            eta[chunk.sources.frames] = update.eta.float()
            probability = update.static_probability.float()[:, None]
            static[chunk.sources.frames] = chunk.sources.mean(probability)[:, 0]
        store.bundle_adjust(target, weight, eta + options.min_eta, topology, bundle)

    recordable = everything is not None and states.stay_on_device
    step = Replayed(iterate, store.device) if recordable else iterate
    for done in range(rule.steps):
        step()
        if on_step is not None:
            if recordable and store.device.type == "cuda":
                # Or all steps would be under way, and none done, when they are reported.
                torch.cuda.current_stream().synchronize()
            on_step(done + 1, rule.steps)
    return GlobalResult(edges, static * store.keeps)


def _chunks(store: KeyframeStore, edges: np.ndarray) -> list[_Chunk]:
    chunks = []
    group = edges[:, 0] // store.options.global_chunk
    for number in np.unique(group):
        at = np.flatnonzero(group == number)
        frames, local = np.unique(edges[at], return_inverse=True)
        ii, jj = store.on_device(edges[at])
        local_ii, local_jj = store.on_device(local.reshape(-1, 2))
        chunks.append(
            _Chunk(
                edges=torch.from_numpy(at).to(store.device),
                ii=ii,
                jj=jj,
                sources=EdgeSources.of(ii),
                source_frames=np.unique(edges[at, 0]).tolist(),
                frames=frames.tolist(),
                local_ii=local_ii,
                local_jj=local_jj,
            )
        )
    return chunks
