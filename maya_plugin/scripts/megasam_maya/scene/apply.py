"""Apply: a solved shot becomes a camera, image planes and points, in one undo step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from megasam_shared.quality import Notice

from megasam_maya.refusal import refuse_unusable
from megasam_maya.scene.camera_bake import LOCKABLE, TargetCamera, bake_camera, existing_camera
from megasam_maya.scene.camera_keys import CameraKeys, keys_of
from megasam_maya.scene.image_planes import remove_plane, show_depth_preview, show_plate
from megasam_maya.scene.node_placement import place_node, placement_of_node
from megasam_maya.scene.options import AppliedShot, ApplyOptions
from megasam_maya.scene.placement import Placement, scaled
from megasam_maya.scene.points import put_points
from megasam_maya.scene.record import (
    DEPTH_PLANE,
    GROUP,
    PLATE_PLANE,
    Record,
    link,
    write_facts,
    write_record,
)
from megasam_maya.shot import SolvedShot

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost

__all__ = ["AppliedShot", "ApplyOptions", "apply_shot"]

_SAME_RATE = 1e-3


def apply_shot(shot: SolvedShot, options: ApplyOptions, host: MayaHost) -> AppliedShot:
    """Put a solved shot into the scene, or bring a camera of an earlier Apply up to date.

    Everything lies under one group, ``<name>_solve_grp``, whose transform is the artist's: applying
    again leaves it alone, and what was baked down stays. The current time, units and frame rate of
    the scene are never changed.

    Raises:
        MegasamError: before anything is changed ``shot_not_usable``, what
            :func:`~megasam_maya.scene.camera_bake.existing_camera` says about the camera, or
            ``points_unreadable``; ``maya_refused`` from a step, after all of them were taken back.
    """
    refuse_unusable(shot.usable, shot.status, shot.reasons, options.insist)
    target = existing_camera(host, options.camera) if options.camera else None
    record = target.record if target else None
    levelled = _levelled(record, options)
    keys = keys_of(shot, options, levelled)
    name = node_name(options.name or shot.name)
    notices = _notices(shot, options, host)
    with host.one_undo_step(f"MegaSAM apply {name}"):
        group = _group(host, name, target, options)
        transform, shape = _camera(host, name, target, group)
        bake_camera(host, transform, shape, keys, record.locked if record else [])
        link(host, shape, GROUP, group)
        plane, said = _plate(host, shape, name, shot, options, keys)
        notices += said
        depth = _depth(host, transform, shape, name, shot, options, keys)
        points, said = put_points(host, shape, group, name, shot, options, levelled)
        notices += said
        locked = list(LOCKABLE) if options.lock else []
        for attribute in locked:
            host.lock(f"{transform}.{attribute}", True)
        write_facts(host, shape, shot)
        write_record(host, shape, Record(options.cm_per_unit, locked, levelled))
        if options.playback_range:
            host.set_playback_range(keys.frames[0], keys.frames[-1])
    return AppliedShot(
        group=host.uuid(group),
        camera=host.uuid(transform),
        camera_shape=host.uuid(shape),
        image_plane=host.uuid(plane) if plane else "",
        depth_plane=host.uuid(depth) if depth else "",
        points=host.uuid(points) if points else "",
        camera_path=transform,
        replaced=target is not None,
        notices=notices,
    )


def node_name(text: str) -> str:
    """``text`` as part of a node's name: letters, digits and _, no digit first, no namespace."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", text)
    return plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}"


def _levelled(record: Record | None, options: ApplyOptions) -> Placement:
    """The levelling that was baked down, at the scale that is applied now."""
    if record is None:
        return Placement()
    was = record.levelled
    ratio = options.cm_per_unit / record.cm_per_unit
    return Placement(was.rotation, was.scale, scaled(was.translation, ratio))


def _group(host: MayaHost, name: str, target: TargetCamera | None, options: ApplyOptions) -> str:
    if target is None or target.group is None:
        group = host.create("transform", f"{name}_solve_grp")
        place_node(host, group, Placement())
        return group
    if target.record is not None and target.record.cm_per_unit != options.cm_per_unit:
        # What was put on the ground shall stay on it at the new scale.
        ratio = options.cm_per_unit / target.record.cm_per_unit
        was = placement_of_node(host, target.group)
        moved = Placement(was.rotation, was.scale, scaled(was.translation, ratio))
        place_node(host, target.group, moved)
    return target.group


def _camera(host: MayaHost, name: str, target: TargetCamera | None, group: str) -> tuple[str, str]:
    if target is None:
        transform = host.create("transform", f"{name}_cam", group)
        return transform, host.create("camera", f"{name}_camShape", transform)
    if target.group is not None:
        return target.transform, target.shape
    transform = host.move_under(target.transform, group)
    return transform, host.shape(transform, "camera") or target.shape


def _plate(
    host: MayaHost,
    shape: str,
    name: str,
    shot: SolvedShot,
    options: ApplyOptions,
    keys: CameraKeys,
) -> tuple[str, list[Notice]]:
    if options.image_plane and shot.plate is not None:
        return show_plate(host, shape, name, shot.plate, keys, options.frame_offset)
    remove_plane(host, shape, PLATE_PLANE)
    return "", []


def _depth(
    host: MayaHost,
    transform: str,
    shape: str,
    name: str,
    shot: SolvedShot,
    options: ApplyOptions,
    keys: CameraKeys,
) -> str:
    if options.depth_preview and shot.depth_preview is not None:
        file = shot.depth_preview
        return show_depth_preview(host, transform, shape, name, file, keys, options.frame_offset)
    remove_plane(host, shape, DEPTH_PLANE)
    return ""


def _notices(shot: SolvedShot, options: ApplyOptions, host: MayaHost) -> list[Notice]:
    notices = []
    rate = host.frame_rate()
    if abs(rate / shot.fps - 1) > _SAME_RATE:
        notices.append(
            Notice(
                "frame_rate_differs",
                f"The plate has {shot.fps:g} fps, the scene {rate:g}.",
                "Keys lie on the right frames; change the scene's rate if it plays wrongly.",
            )
        )
    if options.image_plane and shot.plate is None:
        notices.append(
            Notice(
                "plate_not_known",
                "There is no image plane: where the plate lies on this machine is not known.",
                "Choose the plate and apply again.",
            )
        )
    if not shot.scale_is_metric:
        notices.append(
            Notice(
                "scale_not_known",
                "The solve has no scale of its own.",
                "Set the distance between two points, or the scene scale.",
            )
        )
    return notices
