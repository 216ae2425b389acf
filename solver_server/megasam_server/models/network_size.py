"""The image size each depth network takes, from the size of the plate."""

from __future__ import annotations

from math import ceil, floor, sqrt

from megasam_server.models.dinov2 import PATCH

DEPTH_ANYTHING_V1_LONG_SIDE = 768
"""MegaSaM's choice for Depth Anything V1."""

DEPTH_ANYTHING_V2_SHORT_SIDE = 518
"""The size Depth Anything V2 was trained and is shipped with."""

UNIDEPTH_PATCHES = 2400
"""Patches of UniDepth V2 at its finest, and default, resolution."""


def depth_anything_v1_size(
    width: int, height: int, long_side: int = DEPTH_ANYTHING_V1_LONG_SIDE
) -> tuple[int, int]:
    """Width and height for Depth Anything V1 as MegaSaM runs it.

    The aspect is kept so that neither side exceeds ``long_side``, then both sides go to the nearest
    multiple of 14, or to the next lower one where the nearest is above ``long_side``.
    """
    scale = min(long_side / width, long_side / height)

    def fitted(side: int) -> int:
        nearest = round(scale * side / PATCH) * PATCH
        return nearest if nearest <= long_side else floor(scale * side / PATCH) * PATCH

    return fitted(width), fitted(height)


def depth_anything_v2_size(
    width: int, height: int, short_side: int = DEPTH_ANYTHING_V2_SHORT_SIDE
) -> tuple[int, int]:
    """Width and height for Depth Anything V2.

    The aspect is kept so that neither side is below ``short_side``, then both sides go to the
    nearest multiple of 14, or to the next higher one where the nearest is below ``short_side``.
    """
    scale = max(short_side / width, short_side / height)

    def fitted(side: int) -> int:
        nearest = round(scale * side / PATCH) * PATCH
        return nearest if nearest >= short_side else ceil(scale * side / PATCH) * PATCH

    return fitted(width), fitted(height)


def unidepth_size(
    width: int, height: int, patches: int = UNIDEPTH_PATCHES
) -> tuple[int, int, float]:
    """Width and height for UniDepth V2, and the factor from image pixels to network pixels.

    As near as whole patches allow to ``patches`` patches of the image's aspect. The factor is that
    of the heights; it also scales the intrinsics.
    """
    aspect = width / height
    rows = ceil(sqrt(patches / aspect) - 0.5)
    columns = ceil(rows * aspect - 0.5)
    return columns * PATCH, rows * PATCH, rows / height * PATCH
