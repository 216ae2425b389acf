"""The placement of a transform node, read and written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from megasam_shared.errors import MegasamError

from megasam_maya.scene.camera_bake import ROTATE_ORDER_ZXY
from megasam_maya.scene.placement import (
    Placement,
    added,
    placement_from_rotate,
    scaled,
    subtracted,
    turned,
)

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost

_PIVOTS = ("rotatePivot", "rotatePivotTranslate", "scalePivot", "scalePivotTranslate")
_NOWHERE = (0.0, 0.0, 0.0)
_SAME_SCALE = 1e-6


def placement_of_node(host: MayaHost, node: str) -> Placement:
    """What a transform does to what lies in it, pivots included.

    Raises:
        MegasamError: ``transform_is_skewed`` for anything but an even scale in rotate order zxy.
    """
    scale, y, z = host.get(f"{node}.scale")
    is_even = scale > 0 and all(math.isclose(scale, s, rel_tol=_SAME_SCALE) for s in (y, z))
    is_straight = all(
        host.get(f"{node}.{attribute}") == _NOWHERE for attribute in ("shear", "rotateAxis")
    )
    if not (is_even and is_straight and host.get(f"{node}.rotateOrder") == ROTATE_ORDER_ZXY):
        raise MegasamError(
            "transform_is_skewed",
            f"{node} has an uneven or negative scale, a shear, a rotate axis, or another rotate"
            " order than zxy.",
            "Give it one scale for all axes and rotate order zxy.",
        )
    translate = host.get_length(f"{node}.translate")
    plain = placement_from_rotate(host.get(f"{node}.rotate"), scale, translate)
    turn_at, turn_shift, scale_at, scale_shift = (
        host.get_length(f"{node}.{attribute}") for attribute in _PIVOTS
    )
    # Maya: R (S (p - scale_at) + scale_at + scale_shift - turn_at) + turn_at + turn_shift + T.
    inside = added(subtracted(scaled(scale_at, 1 - scale), turn_at), scale_shift)
    outside = added(turn_at, added(turn_shift, translate))
    return Placement(plain.rotation, scale, added(turned(plain.rotation, inside), outside))


def place_node(host: MayaHost, node: str, placement: Placement) -> None:
    """Give a transform this placement, with its pivots at the origin and rotate order zxy."""
    host.set(f"{node}.rotateOrder", ROTATE_ORDER_ZXY)
    for attribute in _PIVOTS:
        if host.get(f"{node}.{attribute}") != _NOWHERE:
            host.set_length(f"{node}.{attribute}", _NOWHERE)
    host.set_length(f"{node}.translate", placement.translation)
    host.set(f"{node}.rotate", placement.rotate_degrees())
    host.set(f"{node}.scale", (placement.scale,) * 3)
