"""Every constant of the tracker, in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from megasam_server.geometry.edge_topology import PIXELS_AT_ONCE


@dataclass(frozen=True)
class ProximityRule:
    """Which pairs of frames become edges of the factor graph.

    Attributes:
        radius: the ``radius + 1`` frames before each frame are always linked to it, both ways.
        nms: an edge keeps others off within this distance in the (i, j) plane.
        max_distance: largest frame distance (mean flow, pixels of the 1/8 grid) of the other edges.
        beta: share of the full flow in the frame distance; the rest is flow of the translation alone.
    """

    radius: int
    nms: int
    max_distance: float
    beta: float


@dataclass(frozen=True)
class TrackerOptions:
    """What the tracker does. The defaults are those of the reference's demo; lengths in 1/8 pixels.

    Attributes:
        reference_behaviour: keep the known defects of the reference (second disparity update lost, first
            free pose left out of the back-substitution, context features of the first keyframe from one channel,
            stale time stamps after a keyframe is removed, last frame tracked twice, stale context and disparities
            thrown away before the bundle over all frames, observability that depends on the image size). For the
            parity tests only.
        optimise_focal: refine the focal length when the motion makes it observable. False holds it.
        max_keyframes: as many keyframes as this keep their features on the device; older ones go to the host.
        max_volume_bytes: correlation volumes of the frontend's edges are kept when they, and a copy of them while edges
            are added, fit in this; otherwise they are computed when looked up.
        max_state_bytes: as much of the hidden states of the global adjustment stays on the device.
        bundle_pixels: of edges that bundle adjustment works on at a time; each takes about 500 bytes, and 120 for the
            equations of others.
        feature_dtype: how features and hidden states are stored.
        adjusted_together: at most as many frames are adjusted at a time when all frames are; fewer where
            :meth:`frames_together` says so.
        adjusted_overlap: frames that two such windows share; less than half of one.
        encoded_together: frames whose matching features are computed at a time.
        tracked_together: a longer clip is tracked in windows of as many frames, which are joined
            (:mod:`.joined_windows`).
        tracked_overlap: frames that two of these share.
    """

    reference_behaviour: bool = False
    optimise_focal: bool = True
    max_keyframes: int = 128
    max_volume_bytes: int = 3 * 2**30
    max_state_bytes: int = 2**31
    bundle_pixels: int = PIXELS_AT_ONCE
    feature_dtype: torch.dtype = torch.float32
    adjusted_together: int = 128
    adjusted_overlap: int = 32
    encoded_together: int = 8
    tracked_together: int = 1000
    tracked_overlap: int = 100

    # Motion filter: a frame becomes a keyframe when its mean flow to the last one is larger.
    filter_threshold: float = 2.0
    # Keyframes before the frontend starts.
    warmup: int = 8

    # Frontend.
    initial_neighbours: int = 3
    initial_iterations: int = 10
    initial_proximity: ProximityRule = ProximityRule(2, 2, 12.0, 0.25)
    proximity: ProximityRule = ProximityRule(2, 1, 12.0, 0.3)
    window: int = 25
    recent: int = 5
    max_edges: int = 48
    max_age: int = 25
    iterations: int = 8
    extra_iterations: int = 4
    # The last keyframe but one goes when its frame distance to the one before is smaller.
    keyframe_threshold: float = 2.0
    # Edges that rest still count in the bundle when both their frames are at most this far behind.
    inactive_reach: int = 3

    # Bundle adjustment in the frontend and in pose filling.
    damping: float = 1e-4
    damping_floor: float = 0.1
    prior_weight: float = 0.05
    bundle_iterations: int = 2
    focal_iterations: int = 4

    # Global bundle adjustment ("backend").
    global_proximity: ProximityRule = ProximityRule(2, 3, 16.0, 0.3)
    global_edges_per_frame: int = 16
    global_chunk: int = 8
    global_damping: float = 1e-5
    global_damping_floor: float = 1e-2
    global_prior_weight: float = 1e-5
    observability_steps: int = 10
    keyframe_steps: int = 20
    all_frames_steps: int = 15

    # Observability: the prior helps below, the focal length is held below.
    min_depth_hessian: float = 25.0
    prior_decay: float = 0.1
    min_focal_hessian: float = 50.0
    # The same limit for one residual, where it depends neither on the image size nor on the number of edges:
    # 50 spread over the 48 edges, 48x64 pixels and 2 axes of the frontend at its nominal size.
    min_focal_hessian_per_residual: float = 50.0 / (48 * 48 * 64 * 2)

    # With less flow from translation than this the disparities rest on the prior.
    min_parallax: float = 0.1
    tripod_prior_weight: float = 1e-2

    # Pose filling.
    fill_group: int = 16
    fill_iterations: int = 6

    # The update operator.
    max_motion: float = 64.0
    min_eta: float = 1e-7
    initial_eta: float = 1e-6
    # Disparity where the prior says "infinitely far".
    far_disparity: float = 1e-3

    def frames_together(self, pixels: int) -> int:
        """Frames of ``pixels`` cells that are adjusted at a time: their hidden states fit in ``max_state_bytes``, and
        their features on the device. Not fewer than two overlaps and a half: what does not fit then goes to the host.
        """
        state_bytes = 128 * pixels * self.feature_dtype.itemsize
        fitting = self.max_state_bytes // (self.global_edges_per_frame * state_bytes)
        fitting = min(fitting, self.max_keyframes)
        return min(self.adjusted_together, max(fitting, 5 * self.adjusted_overlap // 2))

    def with_global_chunk(self, chunk: int) -> TrackerOptions:
        """The global adjustment takes ``chunk`` frames at a time, and everything else that bounds the
        memory shrinks with it."""
        share = chunk / self.global_chunk
        return replace(
            self,
            global_chunk=chunk,
            max_keyframes=max(1, int(self.max_keyframes * share)),
            max_volume_bytes=int(self.max_volume_bytes * share),
            max_state_bytes=int(self.max_state_bytes * share),
            bundle_pixels=int(self.bundle_pixels * share),
            fill_group=max(1, int(self.fill_group * share)),
        )
