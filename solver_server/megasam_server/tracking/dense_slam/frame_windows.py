"""A clip in windows of consecutive frames that overlap."""

from __future__ import annotations

import math


def overlapping_windows(count: int, most: int, overlap: int) -> list[range]:
    """As few windows of ``count`` frames as there can be, of about the same length.

    Args:
        most: frames of a window; more than ``overlap``.
        overlap: frames that a window shares with the one before.
    """
    if count <= most:
        return [range(count)]
    number = math.ceil((count - overlap) / (most - overlap))
    starts = [round(k * (count - overlap) / number) for k in range(number + 1)]
    return [range(start, end + overlap) for start, end in zip(starts, starts[1:], strict=False)]
