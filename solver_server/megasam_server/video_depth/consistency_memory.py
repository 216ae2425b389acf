"""How much memory consistent video depth takes, and how long its windows may be.

Everything that a window needs lies on its device from the first to the last iteration, so that the size
is known beforehand: so many bytes for each pixel of its frames and of its pairs.
"""

from __future__ import annotations

import numpy as np
import torch

from megasam_server.models.device_memory import free_on
from megasam_server.video_depth.optimise import ConsistencyOptions

OVERLAP = 16
"""Frames that neighbouring windows share: one more than the longest step of the flow."""

HOST_BUDGET = 2 * 2**30
"""Bytes of a window where the device is the CPU."""

# Bytes per pixel of a frame, float32 unless said otherwise. Of the window: prior, the same in range,
# flatness, uncertainty as given and as optimised, disparity, and two moments of Adam for each of the
# last two (36 + 4 for what one moment is made from). Of the kernels: prior normals (12), blurred
# depth, gradient by Sobel's six outputs (24), by disparity and by uncertainty. Of a step, twice,
# once before its graph is captured and once in the graph: disparity and uncertainty in range, what
# is summed over a frame, and a mask (13).
_WINDOW, _KERNELS, _STEP = 40, 48, 26
# Half-precision flow, and a byte of mask.
_PER_PAIR_PIXEL = 5
# Plain torch: prior normals twice, the gradients, and all that differentiation keeps of a chunk.
_PLAIN, _PER_PLAIN_PIXEL = 32, 250
# Code of the kernels, partial sums, rounding of the allocator.
_FIXED = 64 * 2**20
# What is free is not all to be had: it is in pieces.
_USABLE = 0.85


def cvd_bytes(frames: int, pairs: int, height: int, width: int, kernels: bool = True) -> int:
    """Memory of the device that one window takes, at most.

    Args:
        frames, pairs: of the window; a pair is one direction.
        height, width: that the depth is optimised at.
        kernels: by :mod:`~megasam_server.video_depth.fused_objective`, as on CUDA with Triton; else
            by plain torch.
    """
    pixels = height * width
    found = _FIXED + pairs * pixels * _PER_PAIR_PIXEL
    if kernels:
        return found + frames * pixels * (_WINDOW + _KERNELS + _STEP)
    chunk = max(pixels, min(ConsistencyOptions.pixels_at_once, max(frames, pairs) * pixels))
    return found + frames * pixels * (_WINDOW + _PLAIN + _STEP) + chunk * _PER_PLAIN_PIXEL


def free_bytes(device: torch.device) -> int:
    """Memory that a window may take: most of what is free on CUDA, :data:`HOST_BUDGET` on a CPU."""
    if device.type != "cuda":
        return HOST_BUDGET
    return int(_USABLE * free_on(device))


def windows_that_fit(
    count: int, pairs: np.ndarray, height: int, width: int, budget: int, kernels: bool
) -> list[tuple[int, int]]:
    """First and one past the last frame of the longest windows of a clip that fit into some memory.

    Args:
        count: frames of the clip. pairs: [P,2], those that are used.
        budget: bytes for one window, see :func:`cvd_bytes`. Where even ``2 OVERLAP`` frames take more,
            they are tried all the same.
    """
    windows, number = [(0, count)], 1
    while True:
        needed = max(
            cvd_bytes(
                last - first, int(pairs_within(pairs, first, last).sum()), height, width, kernels
            )
            for first, last in windows
        )
        if needed <= budget or OVERLAP * (number + 2) > count:
            return windows
        number += 1
        windows = frame_windows(count, number)


def pairs_within(pairs: np.ndarray, first: int, last: int) -> np.ndarray:
    """Bool [P]: both frames are ``first`` .. ``last`` - 1."""
    return ((pairs >= first) & (pairs < last)).all(axis=1)


def frame_windows(count: int, number: int) -> list[tuple[int, int]]:
    """First and one past the last frame of windows of about equal length, :data:`OVERLAP` in common.

    Args:
        count: frames, at least ``OVERLAP (number + 1)`` for more than one window, so that no frame is
            in more than two.
    """
    if number == 1:
        return [(0, count)]
    starts = np.linspace(0, count - OVERLAP, number + 1).astype(int)
    return [(int(a), int(b) + OVERLAP) for a, b in zip(starts, starts[1:], strict=False)]
