"""The solve as an ASCII FBX 7.4 scene, written by hand: no library writes FBX without its SDK."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from pathlib import Path

import numpy as np
from megasam_shared.film_back import MM_PER_INCH

from megasam_server.export.scene import Scene, varies

KTIME_PER_SECOND = 46_186_158_000
_TIME_MODES = {
    Fraction(120): 1,
    Fraction(100): 2,
    Fraction(60): 3,
    Fraction(50): 4,
    Fraction(48): 5,
    Fraction(30): 6,
    Fraction(30000, 1001): 9,
    Fraction(25): 10,
    Fraction(24): 11,
    Fraction(24000, 1001): 13,
    Fraction(96): 15,
    Fraction(72): 16,
    Fraction(60000, 1001): 17,
}
_CUSTOM_TIME_MODE = 14
_ROTATION_ORDER_ZXY = 4
_APERTURE_MODE_FOCAL_LENGTH = 3
_GATE_FIT_HORIZONTAL = 2
_FIXED_RESOLUTION = 2
_KEY_LINEAR = 4
_TAKE = "Take 001"


def ktime(frame_number: int, fps: Fraction) -> int:
    """FBX time of a frame, in units of 1/46186158000 s."""
    return round(frame_number * KTIME_PER_SECOND / fps)


def write_fbx_ascii(path: Path, scene: Scene) -> None:
    """Write ``scene`` as ``.fbx``: ``<name>_solve_grp`` with ``<name>_cam`` and nulls on points.

    Y-up, centimetres; film back and offsets in inches, focal length in mm. An FBX camera looks
    along its +X: the post-rotation turns it to the -Z that our angles are for.
    """
    path.write_text("".join(f"{line}\n" for line in _lines(scene)), encoding="utf-8", newline="\n")


@dataclass
class _Document:
    """Objects and connections as they come, with ids for both ends."""

    objects: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    _ids: count = field(default_factory=lambda: count(1_000_000))

    def add(self, kind: str, header: str, body: list[str]) -> int:
        """Add an object of ``kind``; ``header`` is its name and class. Returns its id."""
        number = next(self._ids)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.objects += [f"\t{kind}: {number}, {header} {{", *(f"\t\t{b}" for b in body), "\t}"]
        return number

    def connect(self, child: int, parent: int, attribute: str = "") -> None:
        """Connect an object to its parent (0 = the scene), or to one attribute of it."""
        link = f'"OP",{child},{parent}, "{attribute}"' if attribute else f'"OO",{child},{parent}'
        self.connections.append(f"\tC: {link}")


def _lines(scene: Scene) -> Iterator[str]:
    document = _Document()
    group = document.add("Model", f'"Model::{scene.name}_solve_grp", "Null"', _model_body([]))
    document.connect(group, 0)
    model, lens = _add_camera(document, scene, group)
    _add_animation(document, scene, model, lens)
    _add_nulls(document, scene, group)

    start, stop = (ktime(scene.frame_numbers[i], scene.fps) for i in (0, -1))
    yield "; FBX 7.4.0 project file"
    yield "FBXHeaderExtension:  {"
    yield "\tFBXHeaderVersion: 1003"
    yield "\tFBXVersion: 7400"
    yield '\tCreator: "MegaSAM for Maya"'
    yield "}"
    yield "GlobalSettings:  {"
    yield "\tVersion: 1000"
    yield from _indented(_properties(_global_settings(scene, start, stop)))
    yield "}"
    yield "Documents:  {"
    yield "\tCount: 1"
    yield '\tDocument: 999999, "Scene", "Scene" {'
    yield from _indented(
        _indented(_properties([f'"ActiveAnimStackName", "KString", "", "", "{_TAKE}"']))
    )
    yield "\t\tRootNode: 0"
    yield "\t}"
    yield "}"
    yield "References:  {"
    yield "}"
    yield "Definitions:  {"
    yield "\tVersion: 100"
    yield f"\tCount: {sum(document.counts.values()) + 1}"
    for kind, number in {"GlobalSettings": 1, **document.counts}.items():
        yield f'\tObjectType: "{kind}" {{'
        yield f"\t\tCount: {number}"
        yield "\t}"
    yield "}"
    yield "Objects:  {"
    yield from document.objects
    yield "}"
    yield "Connections:  {"
    yield from document.connections
    yield "}"
    yield "Takes:  {"
    yield f'\tCurrent: "{_TAKE}"'
    yield f'\tTake: "{_TAKE}" {{'
    yield f'\t\tFileName: "{_TAKE.replace(" ", "_")}.tak"'
    yield f"\t\tLocalTime: {start},{stop}"
    yield f"\t\tReferenceTime: {start},{stop}"
    yield "\t}"
    yield "}"


def _global_settings(scene: Scene, start: int, stop: int) -> list[str]:
    time_mode = _TIME_MODES.get(scene.fps, _CUSTOM_TIME_MODE)
    custom_rate = float(scene.fps) if time_mode == _CUSTOM_TIME_MODE else -1
    return [
        *(
            f'"{name}", "int", "Integer", "",{value}'
            for name, value in (
                ("UpAxis", 1),
                ("UpAxisSign", 1),
                ("FrontAxis", 2),
                ("FrontAxisSign", 1),
                ("CoordAxis", 0),
                ("CoordAxisSign", 1),
                ("OriginalUpAxis", 1),
                ("OriginalUpAxisSign", 1),
            )
        ),
        '"UnitScaleFactor", "double", "Number", "",1',
        '"OriginalUnitScaleFactor", "double", "Number", "",1',
        f'"TimeMode", "enum", "", "",{time_mode}',
        f'"TimeSpanStart", "KTime", "Time", "",{start}',
        f'"TimeSpanStop", "KTime", "Time", "",{stop}',
        f'"CustomFrameRate", "double", "Number", "",{custom_rate:.17g}',
    ]


def _add_camera(document: _Document, scene: Scene, group: int) -> tuple[int, int]:
    """Add the camera's transform and lens; returns their ids."""
    width, height = scene.film_width_mm / MM_PER_INCH, scene.film_height_mm / MM_PER_INCH
    offset_x, offset_y = scene.film_offset_mm[0] / MM_PER_INCH
    lens = document.add(
        "NodeAttribute",
        f'"NodeAttribute::{scene.name}_camShape", "Camera"',
        [
            *_properties(
                [
                    f'"AspectRatioMode", "enum", "", "",{_FIXED_RESOLUTION}',
                    f'"AspectWidth", "double", "Number", "",{scene.width}',
                    f'"AspectHeight", "double", "Number", "",{scene.height}',
                    f'"FilmWidth", "double", "Number", "",{width:.12g}',
                    f'"FilmHeight", "double", "Number", "",{height:.12g}',
                    f'"FilmAspectRatio", "double", "Number", "",{width / height:.12g}',
                    f'"FilmOffsetX", "Number", "", "A",{offset_x:.12g}',
                    f'"FilmOffsetY", "Number", "", "A",{offset_y:.12g}',
                    f'"ApertureMode", "enum", "", "",{_APERTURE_MODE_FOCAL_LENGTH}',
                    f'"GateFit", "enum", "", "",{_GATE_FIT_HORIZONTAL}',
                    f'"FocalLength", "Number", "", "A",{scene.focal_mm[0]:.12g}',
                    f'"NearPlane", "double", "Number", "",{scene.near_clip:.12g}',
                    f'"FarPlane", "double", "Number", "",{scene.far_clip:.12g}',
                ]
            ),
            'TypeFlags: "Camera"',
            "GeometryVersion: 124",
        ],
    )
    model = document.add(
        "Model",
        f'"Model::{scene.name}_cam", "Camera"',
        _model_body(
            [
                '"RotationActive", "bool", "", "",1',
                f'"RotationOrder", "enum", "", "",{_ROTATION_ORDER_ZXY}',
                '"PostRotation", "Vector3D", "Vector", "",0,-90,0',
                f'"Lcl Translation", "Lcl Translation", "", "A",{_numbers(scene.positions[0])}',
                f'"Lcl Rotation", "Lcl Rotation", "", "A",{_numbers(scene.rotate_deg[0])}',
            ]
        ),
    )
    document.connect(model, group)
    document.connect(lens, model)
    return model, lens


def _add_animation(document: _Document, scene: Scene, model: int, lens: int) -> None:
    start, stop = (ktime(scene.frame_numbers[i], scene.fps) for i in (0, -1))
    span = [
        f'"{name}", "KTime", "Time", "",{time}'
        for name, time in (
            ("LocalStart", start),
            ("LocalStop", stop),
            ("ReferenceStart", start),
            ("ReferenceStop", stop),
        )
    ]
    stack = document.add("AnimationStack", f'"AnimStack::{_TAKE}", ""', list(_properties(span)))
    layer = document.add("AnimationLayer", '"AnimLayer::BaseLayer", ""', [])
    document.connect(layer, stack)

    xyz = ("X", "Y", "Z")
    animated = [
        ("T", model, "Lcl Translation", dict(zip(xyz, scene.positions.T, strict=True))),
        ("R", model, "Lcl Rotation", dict(zip(xyz, scene.rotate_deg.T, strict=True))),
    ]
    for attribute, values in (
        ("FocalLength", scene.focal_mm),
        ("FilmOffsetX", scene.film_offset_mm[:, 0] / MM_PER_INCH),
        ("FilmOffsetY", scene.film_offset_mm[:, 1] / MM_PER_INCH),
    ):
        if varies(values):
            animated.append((attribute, lens, attribute, {attribute: values}))
    times = [ktime(frame, scene.fps) for frame in scene.frame_numbers]
    for name, target, attribute, channels in animated:
        node = document.add(
            "AnimationCurveNode",
            f'"AnimCurveNode::{name}", ""',
            list(
                _properties(
                    f'"d|{channel}", "Number", "", "A",{values[0]:.12g}'
                    for channel, values in channels.items()
                )
            ),
        )
        document.connect(node, layer)
        document.connect(node, target, attribute)
        for channel, values in channels.items():
            curve = document.add("AnimationCurve", '"AnimCurve::", ""', _curve(times, values))
            document.connect(curve, node, f"d|{channel}")


def _curve(times: list[int], values: np.ndarray) -> list[str]:
    return [
        f"Default: {values[0]:.12g}",
        "KeyVer: 4008",
        *_array("KeyTime", times),
        *_array("KeyValueFloat", [f"{value:.9g}" for value in values]),
        *_array("KeyAttrFlags", [_KEY_LINEAR]),
        *_array("KeyAttrDataFloat", [0, 0, 0, 0]),
        *_array("KeyAttrRefCount", [len(times)]),
    ]


def _add_nulls(document: _Document, scene: Scene, group: int) -> None:
    if not len(scene.locators):
        return
    points = document.add("Model", f'"Model::{scene.name}_points_grp", "Null"', _model_body([]))
    document.connect(points, group)
    size = [f'"Size", "double", "Number", "",{scene.locator_size:.12g}']
    for number, position in enumerate(scene.locators, start=1):
        name = f"{scene.name}_point_{number:03d}"
        shape = document.add(
            "NodeAttribute",
            f'"NodeAttribute::{name}Shape", "Null"',
            [*_properties(size), 'TypeFlags: "Null"'],
        )
        translation = f'"Lcl Translation", "Lcl Translation", "", "A",{_numbers(position)}'
        null = document.add("Model", f'"Model::{name}", "Null"', _model_body([translation]))
        document.connect(null, points)
        document.connect(shape, null)


def _model_body(properties: list[str]) -> list[str]:
    return ["Version: 232", *_properties(properties), "Shading: Y", 'Culling: "CullingOff"']


def _properties(properties) -> Iterator[str]:
    yield "Properties70:  {"
    for entry in properties:
        yield f"\tP: {entry}"
    yield "}"


def _array(name: str, values: list) -> list[str]:
    return [f"{name}: *{len(values)} {{", f"\ta: {','.join(map(str, values))}", "}"]


def _numbers(values: np.ndarray) -> str:
    return ",".join(f"{value:.12g}" for value in values)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"\t{line}" for line in lines)
