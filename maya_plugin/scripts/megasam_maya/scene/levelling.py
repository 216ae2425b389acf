"""Ground plane, horizon, origin and scale: edits of the solve's group that leave the keys alone.

Each tool is one undo step. Points are world positions in cm, as the artist picked them. When the
shot lies right, :func:`bake_down` moves the group's transform into the keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from megasam_shared.coordinates import Vector3
from megasam_shared.errors import MegasamError
from megasam_shared.rotations import PanTiltRoll

from megasam_maya.scene.camera_bake import CLIPS, LOCKABLE, key_pose, read_pose
from megasam_maya.scene.camera_keys import placed_rotations
from megasam_maya.scene.node_placement import place_node, placement_of_node
from megasam_maya.scene.placement import (
    Placement,
    about,
    added,
    cross,
    dot,
    placement_from_rotate,
    rotation_between,
    scaled,
    subtracted,
    turned,
    unit,
)
from megasam_maya.scene.record import (
    DEPTH_PLANE,
    GROUP,
    PLATE_PLANE,
    POINTS,
    read_record,
    write_record,
)

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost

_UP: Vector3 = (0.0, 1.0, 0.0)
# Below this sine three points are as good as on one line.
_LEAST_SINE = 1e-3


def ground_plane(host: MayaHost, camera: str, points: Sequence[Vector3]) -> None:
    """Turn and move the shot so that the plane through ``points`` becomes the floor, y = 0.

    The side that the camera is on is up. The middle of the points becomes the origin's height; the
    shot does not move sideways.

    Args:
        camera: transform of a camera that Apply made.
        points: three or more; the plane is their least-squares fit.

    Raises:
        MegasamError: ``too_few_points``, ``points_on_a_line``, or as :func:`_group_of`.
    """
    normal, middle = _plane_through(points)
    placement, group = _placement(host, camera)
    frames, positions, _ = read_pose(host, host.path(camera))
    at = placement.point(scaled(_sum(positions), 1 / len(frames)))
    if dot(subtracted(at, middle), normal) < 0:
        normal = scaled(normal, -1)
    turn = about(middle, rotation_between(normal, _UP))
    drop = Placement(translation=(0.0, -middle[1], 0.0))
    _place(host, "ground plane", group, drop.after(turn).after(placement))


def level_horizon(host: MayaHost, camera: str, frame: float) -> None:
    """Turn the shot about the camera's line of sight at ``frame`` until the camera does not roll.

    Raises:
        MegasamError: ``horizon_not_defined`` when it looks straight up or down, or as
            :func:`_group_of`.
    """
    placement, group = _placement(host, camera)
    pose = placement.after(_camera_at(host, camera, frame))
    sight = turned(pose.rotation, (0.0, 0.0, -1.0))
    level_right = cross(sight, _UP)
    if dot(level_right, level_right) < _LEAST_SINE**2:
        raise MegasamError(
            "horizon_not_defined",
            f"At frame {frame:g} the camera looks straight up or down: there is no horizon.",
            "Choose another frame.",
        )
    right = turned(pose.rotation, (1.0, 0.0, 0.0))
    turn = about(pose.translation, rotation_between(right, unit(level_right)))
    _place(host, "level horizon", group, turn.after(placement))


def set_origin(host: MayaHost, camera: str, point: Vector3) -> None:
    """Move the shot so that ``point`` comes to lie on the world's origin."""
    placement, group = _placement(host, camera)
    move = Placement(translation=scaled(point, -1))
    _place(host, "origin", group, move.after(placement))


def set_distance(
    host: MayaHost, camera: str, first: Vector3, second: Vector3, distance_cm: float
) -> None:
    """Scale the shot about the world's origin so that two points are ``distance_cm`` apart.

    Raises:
        MegasamError: ``distance_invalid``, or as :func:`_group_of`.
    """
    now = math.dist(first, second)
    if not (now > 0 and math.isfinite(distance_cm) and distance_cm > 0):
        raise MegasamError(
            "distance_invalid",
            f"Two points {now:g} cm apart cannot become {distance_cm:g} cm apart.",
            "Pick two different points and give their distance.",
        )
    placement, group = _placement(host, camera)
    scale = Placement(scale=distance_cm / now)
    _place(host, "distance", group, scale.after(placement))


def bake_down(host: MayaHost, camera: str) -> None:
    """Move the group's transform into the camera's keys and the points; nothing moves on screen.

    The camera remembers it, so that applying the solve again keeps the levelling.

    Raises:
        MegasamError: ``camera_not_keyed``, ``camera_not_applied``, or as :func:`_group_of`.
    """
    group = _group_of(host, camera)
    placement = placement_of_node(host, group)
    transform = host.path(camera)
    shape = host.shape(transform, "camera") or transform
    record = read_record(host, shape)
    if record is None:
        raise _not_applied(transform)
    frames, positions, rotations = read_pose(host, transform)
    angles = [PanTiltRoll(*map(math.radians, (pan, tilt, roll))) for tilt, pan, roll in rotations]
    with host.one_undo_step("MegaSAM bake down"):
        locked = [name for name in LOCKABLE if name in host.locked_attributes(transform)]
        for name in locked:
            host.lock(f"{transform}.{name}", False)
        placed = [placement.point(position) for position in positions]
        key_pose(host, transform, frames, placed, placed_rotations(angles, placement))
        for name in locked:
            host.lock(f"{transform}.{name}", True)
        _scale_lengths(host, shape, placement.scale)
        _move_points(host, shape, placement)
        place_node(host, group, Placement())
        levelled = placement.after(record.levelled)
        write_record(host, shape, replace(record, levelled=levelled))


def _scale_lengths(host: MayaHost, shape: str, scale: float) -> None:
    """What a scaled group did to clipping planes and image planes, it must do without it."""
    planes = [host.linked(shape, role) for role in (PLATE_PLANE, DEPTH_PLANE)]
    plugs = [f"{shape}.{name}" for name in CLIPS] + [f"{p}.depth" for p in planes if p]
    for plug in plugs:
        host.set_length(plug, host.get_length(plug) * scale)


def _move_points(host: MayaHost, shape: str, placement: Placement) -> None:
    points = host.linked(shape, POINTS)
    if points is not None:
        own = placement_of_node(host, points)
        place_node(host, points, placement.after(own))


def _placement(host: MayaHost, camera: str) -> tuple[Placement, str]:
    """The group's placement in the world, and the group.

    Raises:
        MegasamError: ``group_has_parent``, or as :func:`_group_of`.
    """
    group = _group_of(host, camera)
    parent = host.parent(group)
    if parent is not None:
        raise MegasamError(
            "group_has_parent",
            f"{group} lies under {parent}, so that picked points say little about it.",
            "Unparent the group, level it, and put it back.",
        )
    return placement_of_node(host, group), group


def _group_of(host: MayaHost, camera: str) -> str:
    """Full path of the solve's group of a camera.

    Raises:
        MegasamError: ``camera_not_applied``, or ``attributes_not_writable`` when the artist
            locked or animated the group.
    """
    transform = host.path(camera)
    shape = host.shape(transform, "camera")
    group = host.linked(shape, GROUP) if shape else None
    if group is None or host.parent(transform) != group:
        raise _not_applied(transform)
    incoming, locked = host.incoming(group), host.locked_attributes(group)
    moved_by = {"translate", "rotate", "scale", "rotateOrder", *LOCKABLE}
    problems = [f"{group}.{name} is locked" for name in sorted(moved_by & locked)]
    problems += [
        f"{group}.{name} is driven by {incoming[name]}" for name in sorted(moved_by & set(incoming))
    ]
    if problems:
        raise MegasamError(
            "attributes_not_writable",
            f"The solve's group cannot be moved: {'; '.join(problems)}.",
            "Unlock or disconnect these. Nothing was changed.",
        )
    return group


def _not_applied(camera: str) -> MegasamError:
    return MegasamError(
        "camera_not_applied",
        f"{camera} does not lie in the group of a solve.",
        "Pick a camera that Apply made and that is still in its group.",
    )


def _place(host: MayaHost, tool: str, group: str, placement: Placement) -> None:
    with host.one_undo_step(f"MegaSAM {tool}"):
        place_node(host, group, placement)


def _camera_at(host: MayaHost, camera: str, frame: float) -> Placement:
    """Where the camera is in its group at a frame."""
    transform = host.path(camera)
    position = [host.length_at(f"{transform}.translate{axis}", frame) for axis in "XYZ"]
    rotate = [host.value_at(f"{transform}.rotate{axis}", frame) for axis in "XYZ"]
    return placement_from_rotate(tuple(rotate), 1.0, tuple(position))


def _plane_through(points: Sequence[Vector3]) -> tuple[Vector3, Vector3]:
    """Normal and middle of the plane that fits the points best (least squares)."""
    if len(points) < 3:
        raise MegasamError(
            "too_few_points",
            f"A plane needs three points, not {len(points)}.",
            "Pick three or more points on the floor.",
        )
    middle = scaled(_sum(points), 1 / len(points))
    offsets = [subtracted(point, middle) for point in points]
    # The normal is the direction in which the points vary least: for the inverse of their 3x3
    # moments that is the largest, found by the adjugate's columns (all three are multiples of it
    # for points in one plane) and a few power iterations for points that are not.
    moments = [[sum(o[i] * o[j] for o in offsets) for j in range(3)] for i in range(3)]
    spread = moments[0][0] + moments[1][1] + moments[2][2]
    if spread <= 0:
        raise _on_a_line()
    scaled_moments = [tuple(value / spread for value in row) for row in moments]
    columns = [
        cross(scaled_moments[1], scaled_moments[2]),
        cross(scaled_moments[2], scaled_moments[0]),
        cross(scaled_moments[0], scaled_moments[1]),
    ]
    normal = max(columns, key=lambda c: dot(c, c))
    if math.sqrt(dot(normal, normal)) < _LEAST_SINE**2:
        raise _on_a_line()
    for _ in range(50):
        normal = unit(_sum([scaled(c, n) for c, n in zip(columns, unit(normal), strict=True)]))
    return normal, middle


def _on_a_line() -> MegasamError:
    return MegasamError(
        "points_on_a_line",
        "The points lie on one line, through which there are many planes.",
        "Pick points that are spread over the floor.",
    )


def _sum(vectors: Sequence[Vector3]) -> Vector3:
    total: Vector3 = (0.0, 0.0, 0.0)
    for vector in vectors:
        total = added(total, vector)
    return total
