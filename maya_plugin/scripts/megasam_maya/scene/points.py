"""The solved points: locators to snap to, or all of them as a USD stage."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

from megasam_shared.quality import Notice

from megasam_maya.scene.node_placement import place_node
from megasam_maya.scene.options import CM_PER_METRE, ApplyOptions
from megasam_maya.scene.placement import Placement
from megasam_maya.scene.record import POINTS, link
from megasam_maya.shot import SolvedShot

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost

_USD_PLUGIN = "mayaUsdPlugin"
# Of a locator, as a share of the typical distance of what was solved.
_SIZE = 0.01


def put_points(
    host: MayaHost,
    shape: str,
    group: str,
    name: str,
    shot: SolvedShot,
    options: ApplyOptions,
    levelled: Placement,
) -> tuple[str, list[Notice]]:
    """Full path of the node with the points (empty: none) and what to tell. Earlier ones go."""
    earlier = host.linked(shape, POINTS)
    if earlier is not None:
        host.delete(earlier)
    # From units of the solve to cm in the group.
    scale = levelled.scale * options.cm_per_unit
    placed = Placement(levelled.rotation, scale, levelled.translation)
    node, notices = "", []
    if options.points == "usd":
        node, notices = _usd_points(host, group, name, shot, placed)
    elif options.points == "locators":
        node = _locators(host, group, name, shot, placed, options.max_points)
    if node:
        link(host, shape, POINTS, node)
    return node, notices


def _locators(
    host: MayaHost, group: str, name: str, shot: SolvedShot, placed: Placement, most: int
) -> str:
    positions = [placed.point(point) for point in shot.points(most)]
    if not positions:
        return ""
    node = host.create("transform", f"{name}_points_grp", group)
    place_node(host, node, Placement())
    near, far = shot.depth_near_far
    size = _SIZE * sqrt(near * far) * placed.scale
    first = host.create("transform", f"{name}_point_001", node)
    locator = host.create("locator", f"{name}_point_001Shape", first)
    host.set(f"{locator}.localScale", (size, size, size))
    locators = [first]
    while len(locators) < len(positions):  # twice as many with each call
        locators += host.duplicate(locators[: len(positions) - len(locators)])
    for each, position in zip(locators, positions, strict=True):
        host.set_length(f"{each}.translate", position)
    return node


def _usd_points(
    host: MayaHost, group: str, name: str, shot: SolvedShot, placed: Placement
) -> tuple[str, list[Notice]]:
    if shot.usd is None or not host.load_plugin(_USD_PLUGIN):
        why = f"{_USD_PLUGIN} could not be loaded" if shot.usd else "the results hold no USD scene"
        return "", [
            Notice(
                "usd_points_missing", f"There are no USD points: {why}.", "Use locators instead."
            )
        ]
    node = host.create("transform", f"{name}_points", group)
    proxy = host.create("mayaUsdProxyShape", f"{name}_pointsShape", node)
    host.set(f"{proxy}.filePath", shot.usd.absolute().as_posix())
    # Nothing but the points: the camera and its keys are in the scene already.
    host.set(f"{proxy}.primPath", f"/{_usd_root(shot)}/points")
    # The stage is in centimetres at 1 unit = 1 m.
    place_node(host, node, replace(placed, scale=placed.scale / CM_PER_METRE))
    return node, []


def _usd_root(shot: SolvedShot) -> str:
    """Name of the stage's first prim, as the file says."""
    text = shot.usd.read_text(encoding="utf-8") if shot.usd else ""
    return text.split('defaultPrim = "', 1)[1].split('"', 1)[0]
