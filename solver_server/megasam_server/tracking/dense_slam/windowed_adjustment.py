"""Adjustment of any number of frames in bounded memory: one window of consecutive frames after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from megasam_server.tracking.dense_slam.backend import GlobalRule, adjust_all
from megasam_server.tracking.dense_slam.frame_windows import anchored_windows
from megasam_server.tracking.dense_slam.keyframe_store import KeyframeStore
from megasam_server.tracking.dense_slam.network import Correlations, TrackingNetwork


def adjust_in_windows(
    store: KeyframeStore,
    most: int,
    keyframes: Sequence[int],
    network: TrackingNetwork,
    correlations: Correlations,
    rule: GlobalRule,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Adjust all frames of the store but the pose of the first; at most ``most`` of them at a time.

    A window begins ``adjusted_overlap`` frames before the end of the last one. The poses of the first half of these are
    finished and hold the window in place; the others saw only one side of their neighbours and are adjusted again.
    Disparities of the held frames go over from those of the one window to those of the other. At the other end the pose
    of a keyframe holds it, which is known from afar: else the path would drift from window to window.

    Args:
        keyframes: slots.
        rule: without focal length.
        on_step: called with (done, total) steps; may raise to stop.

    Returns:
        Static probability [N, h, w], see :class:`.backend.GlobalResult`.
    """
    if not store.has_prior:
        store.normalise()
    static = torch.zeros_like(store.disps)
    overlap = store.options.adjusted_overlap
    windows = anchored_windows(len(store), most, overlap, keyframes)
    for number, window in enumerate(windows):
        held = overlap // 2 if number else 0
        anchored = number < len(windows) - 1 and window[-1] in keyframes
        part = store.part(window.start, window.stop)
        part.require_fmaps(range(len(part)))
        part.require_contexts(range(len(part)))
        before = part.disps[:held].clone()

        def on_window(done: int, total: int, number: int = number) -> None:
            if on_step is not None:
                on_step(number * total + done, len(windows) * total)

        adjusted = adjust_all(
            part,
            network,
            correlations,
            rule,
            on_window,
            first_free=max(held, 1),
            end=len(part) - anchored,
        ).static_probability
        share = torch.arange(1, held + 1, device=store.device)[:, None, None] / (held + 1)
        part.disps[:held] = torch.lerp(before.log(), part.disps[:held].log(), share).exp()
        ours = static[window.start : window.stop]
        adjusted[:held] = torch.lerp(ours[:held], adjusted[:held], share)
        ours.copy_(adjusted)
    return static
