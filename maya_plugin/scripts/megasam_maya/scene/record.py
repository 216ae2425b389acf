"""What a camera remembers of its solve, so that it can be applied again and audited.

Text attributes on the camera's shape, and links to the nodes that were made with it. Links follow
renamed and imported nodes, where names and UUIDs do not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megasam_shared import __version__

from megasam_maya.scene.placement import Placement
from megasam_maya.shot import SolvedShot

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost

_STATE = "megasamState"
GROUP = "megasamGroup"
PLATE_PLANE = "megasamPlatePlane"
DEPTH_PLANE = "megasamDepthPlane"
POINTS = "megasamPoints"


@dataclass(frozen=True)
class Record:
    """State that a camera of ours keeps.

    Attributes:
        cm_per_unit: scale it was applied with.
        locked: attributes of its transform that Apply locked, and may unlock.
        levelled: levelling that was baked down, cm.
    """

    cm_per_unit: float
    locked: list[str]
    levelled: Placement


def read_record(host: MayaHost, camera_shape: str) -> Record | None:
    """The record of a camera; None when Apply did not make it, or its record is damaged."""
    if not host.has(camera_shape, _STATE):
        return None
    try:
        state = json.loads(host.get(f"{camera_shape}.{_STATE}") or "")
        return Record(
            float(state["cm_per_unit"]),
            [str(name) for name in state["locked"]],
            Placement.from_numbers([float(value) for value in state["levelled"]]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def write_record(host: MayaHost, camera_shape: str, record: Record) -> None:
    state = {
        "cm_per_unit": record.cm_per_unit,
        "locked": record.locked,
        "levelled": record.levelled.to_numbers(),
    }
    _write_text(host, camera_shape, _STATE, json.dumps(state))


def write_facts(host: MayaHost, camera_shape: str, shot: SolvedShot) -> None:
    """What was solved and how well, for people and pipelines."""
    rms = "" if shot.rms_px is None else f", RMS {shot.rms_px:.2f} px"
    intrinsics = {
        "width": shot.width,
        "height": shot.height,
        "focal_px": [min(shot.focal_px), max(shot.focal_px)],
        "principal_point": list(shot.principal_point),
    }
    for attribute, text in (
        ("megasamVersion", __version__),
        ("megasamSource", f"{shot.source}: {shot.status}"),
        ("megasamQuality", f"{shot.verdict}{rms}. " + " ".join(shot.reasons)),
        ("megasamScale", "metres" if shot.scale_is_metric else "arbitrary"),
        ("megasamIntrinsics", json.dumps(intrinsics)),
        ("megasamPlate", shot.plate.as_posix() if shot.plate else shot.name),
        ("megasamResults", shot.folder.absolute().as_posix()),
        ("megasamJob", shot.job),
    ):
        _write_text(host, camera_shape, attribute, text)


def link(host: MayaHost, camera_shape: str, attribute: str, node: str) -> None:
    """Let the camera remember ``node`` as its group, plane or points."""
    if not host.has(camera_shape, attribute):
        host.add_link(camera_shape, attribute)
    host.connect(f"{node}.message", f"{camera_shape}.{attribute}")


def _write_text(host: MayaHost, node: str, attribute: str, text: str) -> None:
    if not host.has(node, attribute):
        host.add_text(node, attribute)
    host.set(f"{node}.{attribute}", text)
