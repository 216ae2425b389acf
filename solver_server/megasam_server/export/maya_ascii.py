"""The solve as a Maya ASCII scene: data only, nothing in it is run as a script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from megasam_shared.film_back import HORIZONTAL_FIT, MM_PER_INCH

from megasam_server.export.frame_rate import maya_time_unit
from megasam_server.export.scene import Scene, varies

# The oldest Maya we support: newer ones read its files, older ones would refuse newer files.
MAYA_VERSION = "2025"
_ROTATE_ORDER_ZXY = 2
_TANGENT_LINEAR = 2
_PLANE_FIT_TO_SIZE = 4
_PLANE_TYPE = {"sequence": 0, "movie": 2}


def write_maya_ascii(path: Path, scene: Scene) -> None:
    """Write ``scene`` as ``.ma``.

    ``<name>_solve_grp`` holds the camera ``<name>_cam`` with its image plane and, under
    ``<name>_points_grp``, locators on the best points. Keys lie on the plate's frame numbers with
    linear tangents. The image plane names the plate as the solve was given it: when that path means
    nothing on the artist's machine, point it at the plate there.
    """
    path.write_text(
        "".join(f"{line}\n" for line in _lines(path.name, scene)), encoding="utf-8", newline="\n"
    )


def maya_string(text: str) -> str:
    """``text`` as a quoted MEL string that cannot end early; control characters become spaces."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    escaped = printable.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _lines(file_name: str, scene: Scene) -> Iterator[str]:
    name = scene.name
    group, camera, shape = f"{name}_solve_grp", f"{name}_cam", f"{name}_camShape"
    plate, plate_shape = f"{name}_imagePlane", f"{name}_imagePlaneShape"
    film = [scene.film_width_mm / MM_PER_INCH, scene.film_height_mm / MM_PER_INCH]
    offsets = scene.film_offset_mm / MM_PER_INCH

    yield f"//Maya ASCII {MAYA_VERSION} scene"
    yield f"//Name: {file_name}"
    yield "//Codeset: UTF-8"
    yield f'requires maya "{MAYA_VERSION}";'
    yield f"currentUnit -l centimeter -a degree -t {maya_time_unit(scene.fps)};"

    yield f'createNode transform -n "{group}";'
    yield '\taddAttr -ci true -sn "nts" -ln "notes" -dt "string";'
    yield f'\tsetAttr ".nts" -type "string" {maya_string(scene.notes)};'

    yield f'createNode transform -n "{camera}" -p "{group}";'
    yield f'\tsetAttr ".ro" {_ROTATE_ORDER_ZXY};'
    yield from _double3(".t", scene.positions[0])
    yield from _double3(".r", scene.rotate_deg[0])
    yield f'createNode camera -n "{shape}" -p "{camera}";'
    yield '\tsetAttr -k off ".v";'
    yield f'\tsetAttr ".cap" -type "double2" {_numbers(film)} ;'
    yield f'\tsetAttr ".ff" {HORIZONTAL_FIT};'
    yield f'\tsetAttr ".hfo" {offsets[0, 0]:.12g};'
    yield f'\tsetAttr ".vfo" {offsets[0, 1]:.12g};'
    yield f'\tsetAttr ".fl" {scene.focal_mm[0]:.12g};'
    yield f'\tsetAttr ".ncp" {scene.near_clip:.12g};'
    yield f'\tsetAttr ".fcp" {scene.far_clip:.12g};'

    yield f'createNode transform -n "{plate}" -p "{shape}";'
    yield f'createNode imagePlane -n "{plate_shape}" -p "{plate}";'
    yield '\tsetAttr -k off ".v";'
    yield f'\tsetAttr ".t" {_PLANE_TYPE[scene.plate_kind]};'
    yield f'\tsetAttr ".imn" -type "string" {maya_string(scene.plate_file)};'
    yield '\tsetAttr ".ufe" yes;'
    yield f'\tsetAttr ".cov" -type "short2" {scene.width} {scene.height} ;'
    yield f'\tsetAttr ".f" {_PLANE_FIT_TO_SIZE};'
    yield '\tsetAttr ".dic" yes;'
    yield f'\tsetAttr ".d" {scene.plate_distance:.12g};'
    yield f'\tsetAttr ".s" -type "double2" {_numbers(film)} ;'
    # A film offset moves the frustum; the plane stays on the optical axis unless it moves along.
    yield f'\tsetAttr ".o" -type "double2" {_numbers(offsets[0])} ;'

    yield from _locators(scene, group)

    channels = [
        (f"{camera}.{attribute}", kind, values)
        for kind, names, table in (
            ("TL", ("tx", "ty", "tz"), scene.positions),
            ("TA", ("rx", "ry", "rz"), scene.rotate_deg),
        )
        for attribute, values in zip(names, table.T, strict=True)
    ]
    if varies(scene.focal_mm):
        channels.append((f"{shape}.fl", "TU", scene.focal_mm))
    for attribute, plane_attribute, values in zip(
        ("hfo", "vfo"), ("ox", "oy"), offsets.T, strict=True
    ):
        if varies(values):
            channels.append((f"{shape}.{attribute}", "TU", values))
            channels.append((f"{plate_shape}.{plane_attribute}", "TU", values))
    curves = []
    for target, kind, values in channels:
        curve = target.replace(".", "_")
        curves.append((curve, target))
        yield f'createNode animCurve{kind} -n "{curve}";'
        yield f'\tsetAttr ".tan" {_TANGENT_LINEAR};'
        yield '\tsetAttr ".wgt" no;'
        yield from _keys(scene.frame_numbers, values)

    expression = f"{name}_imagePlane_frame"
    yield f'createNode expression -n "{expression}";'
    yield '\tsetAttr -k on ".nds";'
    yield '\tsetAttr ".ixp" -type "string" ".O[0]=frame";'

    for curve, target in curves:
        yield f'connectAttr "{curve}.o" "{target}";'
    yield f'connectAttr ":time1.o" "{expression}.tim";'
    yield f'connectAttr "{expression}.out[0]" "{plate_shape}.fe";'
    yield f'connectAttr "{plate_shape}.msg" "{shape}.ip" -na;'
    yield f"// End of {file_name}"


def _locators(scene: Scene, group: str) -> Iterator[str]:
    points_group = f"{scene.name}_points_grp"
    yield f'createNode transform -n "{points_group}" -p "{group}";'
    for number, position in enumerate(scene.locators, start=1):
        locator = f"{scene.name}_point_{number:03d}"
        yield f'createNode transform -n "{locator}" -p "{points_group}";'
        yield from _double3(".t", position)
        yield f'createNode locator -n "{locator}Shape" -p "{locator}";'
        yield '\tsetAttr -k off ".v";'
        yield from _double3(".los", [scene.locator_size] * 3)


def _keys(frame_numbers: list[int], values: np.ndarray) -> Iterator[str]:
    count = len(frame_numbers)
    pairs = [f"{f} {v:.12g}" for f, v in zip(frame_numbers, values.tolist(), strict=True)]
    yield f'\tsetAttr -s {count} ".ktv[0:{count - 1}]"  {pairs[0]}'
    for start in range(1, count, 8):
        yield "\t\t " + " ".join(pairs[start : start + 8])
    yield "\t\t;"


def _double3(attribute: str, values: np.ndarray | list[float]) -> Iterator[str]:
    yield f'\tsetAttr "{attribute}" -type "double3" {_numbers(values)} ;'


def _numbers(values: np.ndarray | list[float]) -> str:
    return " ".join(f"{value:.12g}" for value in values)
