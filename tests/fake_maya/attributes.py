"""The attributes that the stand-in's nodes have, as Maya's node reference lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

IDENTITY = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Attribute:
    """One attribute. Kinds: double, distance (cm inside), angle (radians inside), bool, enum, long,
    string, message, matrix, time, and compound (of ``children``)."""

    long: str
    short: str
    kind: str
    default: Any = None
    children: tuple[str, ...] = ()
    parent: str = ""
    minimum: float | None = None
    maximum: float | None = None
    multi: bool = False
    readable_only: bool = False


def triple(long: str, short: str, kind: str, default: float = 0.0, axes="XYZ") -> list[Attribute]:
    """A compound and its children, ``translate`` and ``translateX`` ..."""
    children = tuple(f"{long}{axis}" for axis in axes)
    return [
        Attribute(long, short, "compound", children=children),
        *(
            Attribute(f"{long}{axis}", f"{short}{axis.lower()}", kind, default, parent=long)
            for axis in axes
        ),
    ]


def table(*entries: Attribute | list[Attribute]) -> dict[str, Attribute]:
    flat = [a for entry in entries for a in (entry if isinstance(entry, list) else [entry])]
    return {attribute.long: attribute for attribute in flat}


def one(long: str, short: str, kind: str, default: Any = None, **more: Any) -> Attribute:
    return Attribute(long, short, kind, default, **more)


NODE = [one("message", "msg", "message", readable_only=True)]
DAG = [*NODE, one("visibility", "v", "bool", True)]
CURVE = [
    *NODE,
    one("weightedTangents", "wgt", "bool", False),
    one("output", "o", "double", readable_only=True),
]

NODE_TYPES: dict[str, dict[str, Attribute]] = {
    "time": table(NODE, one("outTime", "o", "time", 0.0)),
    "transform": table(
        DAG,
        triple("translate", "t", "distance"),
        triple("rotate", "r", "angle"),
        triple("scale", "s", "double", 1.0),
        [
            Attribute("shear", "sh", "compound", children=("shearXY", "shearXZ", "shearYZ")),
            *(
                one(f"shear{axes}", f"sh{axes.lower()}", "double", 0.0, parent="shear")
                for axes in ("XY", "XZ", "YZ")
            ),
        ],
        triple("rotateAxis", "ra", "angle"),
        triple("rotatePivot", "rp", "distance"),
        triple("rotatePivotTranslate", "rpt", "distance"),
        triple("scalePivot", "sp", "distance"),
        triple("scalePivotTranslate", "spt", "distance"),
        one("rotateOrder", "ro", "enum", 0, minimum=0, maximum=5),
        one("inheritsTransform", "it", "bool", True),
        one("offsetParentMatrix", "opm", "matrix", IDENTITY),
    ),
    "camera": table(
        DAG,
        one("focalLength", "fl", "double", 35.0, minimum=2.5, maximum=100000.0),
        one("horizontalFilmAperture", "hfa", "double", 1.41732, minimum=0.001),
        one("verticalFilmAperture", "vfa", "double", 0.94488, minimum=0.001),
        one("horizontalFilmOffset", "hfo", "double", 0.0),
        one("verticalFilmOffset", "vfo", "double", 0.0),
        one("filmFit", "ff", "enum", 1, minimum=0, maximum=3),
        one("filmFitOffset", "ffo", "double", 0.0),
        one("filmTranslateH", "fth", "double", 0.0),
        one("filmTranslateV", "ftv", "double", 0.0),
        one("filmRollValue", "frv", "angle", 0.0),
        one("lensSqueezeRatio", "lsr", "double", 1.0, minimum=0.0001),
        one("cameraScale", "cs", "double", 1.0, minimum=0.0001),
        one("preScale", "psc", "double", 1.0, minimum=0.001),
        one("postScale", "ptsc", "double", 1.0, minimum=0.001),
        one("shakeEnabled", "se", "bool", False),
        one("orthographic", "o", "bool", False),
        one("nearClipPlane", "ncp", "distance", 0.1, minimum=0.00001),
        one("farClipPlane", "fcp", "distance", 10000.0, minimum=0.0001),
        one("renderable", "rnd", "bool", True),
        one("imagePlane", "ip", "message", multi=True),
    ),
    "imagePlane": table(
        DAG,
        one("type", "t", "enum", 0, minimum=0, maximum=2),
        one("imageName", "imn", "string"),
        one("useFrameExtension", "ufe", "bool", False),
        one("frameExtension", "fe", "long", 1),
        one("frameOffset", "fo", "long", 0),
        one("fit", "f", "enum", 1, minimum=0, maximum=4),
        triple("size", "s", "double", 1.0, axes="XY"),
        triple("offset", "o", "double", 0.0, axes="XY"),
        one("depth", "d", "distance", 100.0),
        one("displayOnlyIfCurrent", "dic", "bool", False),
        one("displayMode", "dm", "enum", 3, minimum=0, maximum=5),
        one("alphaGain", "ag", "double", 1.0, minimum=0.0),
        one("colorSpace", "cs", "string"),
        one("ignoreColorSpaceFileRules", "ifr", "bool", False),
    ),
    "locator": table(
        DAG,
        triple("localScale", "los", "double", 1.0),
        triple("localPosition", "lop", "distance"),
    ),
    "expression": table(
        NODE,
        one("expression", "e", "string"),
        one("time", "tim", "time"),
        one("output", "out", "double", multi=True, readable_only=True),
    ),
    "addDoubleLinear": table(
        NODE,
        one("input1", "i1", "double", 0.0),
        one("output", "o", "double", 0.0, readable_only=True),
    ),
    "mayaUsdProxyShape": table(
        DAG, one("filePath", "fp", "string"), one("primPath", "pp", "string")
    ),
    **{f"animCurve{kind}": table(CURVE) for kind in ("TL", "TA", "TU")},
}
NODE_OF_PLUGIN = {"mayaUsdProxyShape": "mayaUsdPlugin"}
SHAPES = frozenset({"camera", "imagePlane", "locator", "mayaUsdProxyShape"})
DAG_TYPES = SHAPES | {"transform"}
