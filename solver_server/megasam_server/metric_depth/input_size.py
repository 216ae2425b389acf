"""The size of the pictures that the metric depth network is shown."""

from __future__ import annotations

LONG_SIDE = 640
"""MegaSaM's choice for UniDepth: its depth maps have this size too."""


def metric_input_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a plate of ``width`` x ``height`` whose longer side becomes 640."""
    if width > height:
        return LONG_SIDE, round(LONG_SIDE * height / width)
    return round(LONG_SIDE * width / height), LONG_SIDE
