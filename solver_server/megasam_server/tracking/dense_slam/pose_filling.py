"""Poses of the frames between the keyframes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from megasam_server.geometry.lietorch_se3 import se3_operations
from megasam_server.tracking.dense_slam.factor_graph import FactorGraph
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.network import Correlations, TrackingNetwork

# Keeps the speed between two keyframes with the same time stamp finite.
_MIN_TIME = 1e-3


def bracketing(times: Sequence[int], frames: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Slots before and after each frame [K], equal for frames at or behind the last keyframe."""
    before = np.searchsorted(times, frames, side="right") - 1
    return before, np.minimum(before + 1, len(times) - 1)


def interpolate_poses(store: KeyframeStore, frames: Sequence[int]) -> Tensor:
    """cam_from_world [K, 7] of frames, at constant speed between the keyframes around them."""
    before, after = bracketing(store.times, frames)
    times = np.asarray(store.times)
    share = (np.asarray(frames) - times[before]) / (times[after] - times[before] + _MIN_TIME)
    share = torch.from_numpy(share).to(store.device, torch.float32)[:, None]
    start, end = store.poses[before.tolist()], store.poses[after.tolist()]
    se3 = se3_operations()
    step = se3.log(se3.compose(end, se3.inverse(start)))
    return se3.retract(start, share * step)


def fill_poses(
    store: KeyframeStore,
    frames: Sequence[int],
    network: TrackingNetwork,
    correlations: Correlations,
    on_frames: Callable[[int, int], None] | None = None,
) -> Tensor:
    """cam_from_world [K, 7] of frames that are no keyframes, from their flow to the keyframes around them.

    The store is left as it was.

    Args:
        on_frames: called with (done, total) frames; may raise to stop.
    """
    options = store.options
    count = len(store)
    poses = [store.poses[:0]]
    for start in range(0, len(frames), options.fill_group):
        group = frames[start : start + options.fill_group]
        before, after = bracketing(store.times, group)
        store.extend(group, interpolate_poses(store, group), torch.ones((), device=store.device))
        store.require_fmaps(range(count, len(store)))
        graph = FactorGraph(store, network, correlations)
        slots = np.arange(count, len(store))
        graph.add(np.stack([before, slots], axis=1))
        graph.add(np.stack([after, slots], axis=1))
        graph.update(options.fill_iterations, count, len(store), motion_only=True)
        poses.append(store.poses[count:].clone())
        store.truncate(count)
        if on_frames is not None:
            on_frames(min(start + options.fill_group, len(frames)), len(frames))
    return torch.cat(poses)
