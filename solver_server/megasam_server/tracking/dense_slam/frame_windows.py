"""A clip in windows of consecutive frames that overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence


def even_windows(count: int, most: int, overlap: int) -> list[range]:
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


def anchored_windows(count: int, most: int, overlap: int, anchors: Sequence[int]) -> list[range]:
    """Windows that end with an anchor, if there is one in the second half of what one may have.

    Args:
        most: frames of a window; more than twice ``overlap``.
        overlap: frames that a window shares with the one before.
        anchors: frames.
    """
    windows = []
    start = 0
    while start + most < count:
        near = [frame + 1 for frame in anchors if most // 2 < frame + 1 - start <= most]
        stop = max(near, default=start + most)
        windows.append(range(start, stop))
        start = stop - overlap
    return [*windows, range(start, count)]
