"""The solved camera as a Maya camera: checked before it is touched, then keyed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from megasam_shared.errors import MegasamError

from megasam_maya.scene.camera_keys import CameraKeys
from megasam_maya.scene.record import GROUP, Record, read_record

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost

ROTATE_ORDER_ZXY = 2

_TRANSLATE = ("translateX", "translateY", "translateZ")
_ROTATE = ("rotateX", "rotateY", "rotateZ")
_SCALE = ("scaleX", "scaleY", "scaleZ")
LOCKABLE = (*_TRANSLATE, *_ROTATE, *_SCALE)

# What must not bend the solve on a camera that an artist made. All zero lengths, so units do not
# matter.
_PLAIN_TRANSFORM = {
    "rotateOrder": ROTATE_ORDER_ZXY,
    "inheritsTransform": True,
    **dict.fromkeys(_SCALE, 1.0),
    **dict.fromkeys(("shearXY", "shearXZ", "shearYZ"), 0.0),
    **{
        f"{attribute}{axis}": 0.0
        for attribute in ("rotateAxis", "rotatePivot", "rotatePivotTranslate", "scalePivot")
        for axis in "XYZ"
    },
    **{f"scalePivotTranslate{axis}": 0.0 for axis in "XYZ"},
}
_PLAIN_CAMERA = {
    "orthographic": False,
    "lensSqueezeRatio": 1.0,
    "cameraScale": 1.0,
    "preScale": 1.0,
    "postScale": 1.0,
    "filmTranslateH": 0.0,
    "filmTranslateV": 0.0,
    "filmRollValue": 0.0,
    "filmFitOffset": 0.0,
    "shakeEnabled": False,
}
CLIPS = ("nearClipPlane", "farClipPlane")
_UNMOVED = (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1)

_FROM_COMPOUND = {
    f"{compound}{axis}": compound
    for compound in (
        *("translate", "rotate", "scale", "rotateAxis"),
        *("rotatePivot", "rotatePivotTranslate", "scalePivot", "scalePivotTranslate"),
    )
    for axis in "XYZ"
} | {f"shear{axes}": "shear" for axes in ("XY", "XZ", "YZ")}


@dataclass(frozen=True)
class TargetCamera:
    """An existing camera that may be written.

    Attributes:
        transform, shape: full paths.
        record: of an earlier Apply.
        group: full path of the group it lies in already.
    """

    transform: str
    shape: str
    record: Record | None
    group: str | None


def existing_camera(host: MayaHost, node: str) -> TargetCamera:
    """The artist's camera, after a look at everything that Apply will write. Changes nothing.

    Raises:
        MegasamError: ``not_a_camera``, ``camera_is_mayas``, ``camera_is_referenced``,
            ``camera_has_parent``, or ``attributes_not_writable`` with a list of all attributes
            that are locked or driven by something.
    """
    transform = host.path(node)
    if host.node_type(transform) == "camera":
        transform = host.parent(transform) or transform
    shape = host.shape(transform, "camera")
    if shape is None:
        raise MegasamError(
            "not_a_camera", f"{transform} is not a camera.", "Pick a camera, or make a new one."
        )
    if host.is_startup_camera(transform):
        raise MegasamError(
            "camera_is_mayas",
            f"{transform} is one of Maya's own cameras.",
            "Apply to a camera of the shot, or make a new one.",
        )
    if host.is_referenced(transform):
        raise MegasamError(
            "camera_is_referenced",
            f"{transform} comes from a referenced file: it cannot be moved into the solve's group.",
            "Make a new camera, and constrain the referenced one to it.",
        )
    record = read_record(host, shape)
    group = host.linked(shape, GROUP)
    parent = host.parent(transform)
    if parent is not None and parent != group:
        raise MegasamError(
            "camera_has_parent",
            f"{transform} lies under {parent}, which would move the solved camera.",
            "Unparent it, or make a new camera.",
        )
    _require_writable(host, transform, shape, record)
    return TargetCamera(transform, shape, record, group if parent is not None else None)


def bake_camera(
    host: MayaHost, transform: str, shape: str, keys: CameraKeys, locked_by_us: list[str]
) -> None:
    """Set and key a camera that may be written. Locks of ours are opened and stay open."""
    for attribute in locked_by_us:
        host.lock(f"{transform}.{attribute}", False)
    for node, plain in ((transform, _PLAIN_TRANSFORM), (shape, _PLAIN_CAMERA)):
        for attribute, value in _deviating(host, node, plain).items():
            host.stop_animation(f"{node}.{attribute}")
            host.set(f"{node}.{attribute}", value)
    for attribute, value in keys.film.maya_attributes().items():
        if attribute != "focalLength":
            host.stop_animation(f"{shape}.{attribute}")
            host.set(f"{shape}.{attribute}", value)
    for attribute, value in zip(CLIPS, (keys.near_clip, keys.far_clip), strict=True):
        host.stop_animation(f"{shape}.{attribute}")
        host.set_length(f"{shape}.{attribute}", value)
    key_pose(host, transform, keys.frames, keys.translate, keys.rotate)
    focal = f"{shape}.focalLength"
    if len(keys.focal_mm) > 1:
        host.animate(focal, "TU", keys.frames, keys.focal_mm)
    else:
        host.stop_animation(focal)
        host.set(focal, keys.focal_mm[0])


def key_pose(host: MayaHost, transform: str, frames, translate, rotate) -> None:
    """Key position (cm) [N] and rotation (degrees) [N] of a camera."""
    for names, kind, rows in ((_TRANSLATE, "TL", translate), (_ROTATE, "TA", rotate)):
        for attribute, values in zip(names, zip(*rows, strict=True), strict=True):
            host.animate(f"{transform}.{attribute}", kind, frames, values)


def read_pose(host: MayaHost, transform: str):
    """Frames [N], positions (cm) [N] and rotations (degrees) [N] as :func:`key_pose` wrote them.

    Raises:
        MegasamError: ``camera_not_keyed`` when the six curves do not have the same frames.
    """
    curves = [host.keys(f"{transform}.{name}", "TL") for name in _TRANSLATE]
    curves += [host.keys(f"{transform}.{name}", "TA") for name in _ROTATE]
    frames = curves[0][0]
    if not frames or any(times != frames for times, _ in curves):
        raise MegasamError(
            "camera_not_keyed",
            f"The keys of {transform} were changed: position and rotation have different frames.",
            "Apply the shot again, then level it.",
        )
    values = [curve for _, curve in curves]
    return (
        frames,
        list(zip(*values[:3], strict=True)),
        list(zip(*values[3:], strict=True)),
    )


def _require_writable(host: MayaHost, transform: str, shape: str, record: Record | None) -> None:
    to_write = {
        transform: {*_TRANSLATE, *_ROTATE, *_deviating(host, transform, _PLAIN_TRANSFORM)},
        shape: {
            *("focalLength", "horizontalFilmAperture", "verticalFilmAperture", "filmFit"),
            *("horizontalFilmOffset", "verticalFilmOffset", *CLIPS),
            *_deviating(host, shape, _PLAIN_CAMERA),
        },
    }
    ours = set(record.locked) if record else set()
    problems = []
    for node, attributes in to_write.items():
        locked = host.locked_attributes(node)
        incoming = host.incoming(node)
        if node == transform:
            locked -= ours
        for name in sorted(attributes):
            compound = _FROM_COMPOUND.get(name, name)
            if name in locked or (compound in locked and name not in ours):
                problems.append(f"{node}.{name} is locked")
            driver = incoming.get(name) or incoming.get(compound)
            if driver is not None and not host.is_plain_curve(driver):
                problems.append(f"{node}.{name} is driven by {driver}")
    if "offsetParentMatrix" in host.incoming(transform):
        problems.append(f"{transform}.offsetParentMatrix is connected")
    elif tuple(host.get(f"{transform}.offsetParentMatrix")) != _UNMOVED:
        problems.append(f"{transform}.offsetParentMatrix moves the camera")
    if problems:
        raise MegasamError(
            "attributes_not_writable",
            f"{transform} cannot take the solve: {'; '.join(problems)}.",
            "Unlock or disconnect these, or apply to a new camera. Nothing was changed.",
        )


def _deviating(host: MayaHost, node: str, plain: dict[str, float]) -> dict[str, float]:
    """What is not plain now, or may not be at other frames because something drives it."""
    incoming = host.incoming(node)
    return {
        name: value
        for name, value in plain.items()
        if name in incoming
        or _FROM_COMPOUND.get(name) in incoming
        or host.get(f"{node}.{name}") != value
    }
