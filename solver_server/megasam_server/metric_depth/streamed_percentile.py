"""Percentiles of more pixels than fit into memory."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor

import numpy as np

_SIGN = np.uint32(1 << 31)


def streamed_percentile(frames: Iterable[np.ndarray], percent: float) -> float:
    """The exact percentile of all values of all frames, as ``np.percentile`` interpolates it.

    Goes over the frames twice and keeps two tables of 65536 counts: floats order as their bits do,
    so the first pass finds the upper half of the bits of the wanted values, the second the rest.

    Args:
        frames: finite float32 arrays of any shape; iterated twice, so no generator.
        percent: 0..100.

    Raises:
        ValueError: there is no value at all.
    """
    upper = np.zeros(1 << 16, np.int64)
    for frame in frames:
        upper += np.bincount(_ordered_bits(frame) >> 16, minlength=1 << 16)
    count = int(upper.sum())
    if not count:
        raise ValueError("no values")
    position = percent / 100 * (count - 1)
    ranks = (floor(position), min(floor(position) + 1, count - 1))
    ends = np.cumsum(upper)
    bins = np.searchsorted(ends, ranks, side="right")

    lower = {int(b): np.zeros(1 << 16, np.int64) for b in bins}
    for frame in frames:
        bits = _ordered_bits(frame)
        for b, counts in lower.items():
            counts += np.bincount(bits[bits >> 16 == b] & 0xFFFF, minlength=1 << 16)

    values = []
    for rank, b in zip(ranks, bins, strict=True):
        within = rank - (ends[b] - upper[b])
        low = np.searchsorted(np.cumsum(lower[int(b)]), within, side="right")
        values.append(_value_of(int(b) << 16 | int(low)))
    return values[0] + (values[1] - values[0]) * (position - ranks[0])


def _ordered_bits(frame: np.ndarray) -> np.ndarray:
    """uint32 that order as the float32 values do, flat."""
    bits = np.ascontiguousarray(frame, np.float32).reshape(-1).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _value_of(ordered: int) -> float:
    bits = np.array([ordered], np.uint32)
    bits = np.where(bits & _SIGN, bits ^ _SIGN, ~bits)
    return float(bits.view(np.float32)[0])
