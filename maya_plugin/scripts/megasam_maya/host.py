"""Maya as the rest of the plug-in sees it. No other module imports ``maya.*``.

Lengths go in and come out in centimetres and angles in degrees, whatever the scene's working units
are. Nodes are named by the paths that :class:`MayaHost` returns; keep UUIDs across user actions.
Nothing here moves the current time or changes working units.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import maya.api.OpenMaya as om
import maya.api.OpenMayaAnim as oma
import maya.cmds as cmds
from megasam_shared.errors import MegasamError

# Kinds of animation curves: "TL" lengths in cm, "TA" angles in degrees, "TU" plain numbers.
_CURVE_TYPES = tuple(f"animCurve{kind}" for kind in ("TL", "TA", "TU"))


class MayaHost:
    """The running Maya, for the main thread only.

    Every method raises ``MegasamError`` ``maya_refused`` when Maya does not do what it is asked,
    naming node and attribute and, where it can be told, why.
    """

    def __init__(self) -> None:
        self._edits = 0
        self._in_step = False

    # Contexts ---------------------------------------------------------------------------------

    @contextmanager
    def one_undo_step(self, name: str) -> Iterator[None]:
        """Everything inside becomes one undo step; when it fails, all of it is taken back.

        The viewport waits, and the selection is the same afterwards. Inside another step it is
        part of that one.

        Raises:
            MegasamError: ``not_the_main_thread``.
        """
        if self._in_step:
            yield
            return
        if threading.current_thread() is not threading.main_thread():
            raise MegasamError(
                "not_the_main_thread", f"{name} was called outside Maya's main thread."
            )
        was_on = cmds.undoInfo(query=True, state=True)
        if not was_on:
            # mayapy starts like this; without the queue a failure could not be taken back.
            cmds.undoInfo(stateWithoutFlush=True)
        edits_before = self._edits
        cmds.undoInfo(openChunk=True, chunkName=name)
        self._in_step = True
        failed = True
        try:
            with self._viewport_waiting(), self._selection_kept():
                yield
            failed = False
        finally:
            self._in_step = False
            cmds.undoInfo(closeChunk=True)
            # Maya keeps no empty step: without an edit, undo would take back the artist's last one.
            if failed and self._edits > edits_before:
                cmds.undo()
            if not was_on:
                cmds.undoInfo(stateWithoutFlush=False)

    @contextmanager
    def _viewport_waiting(self) -> Iterator[None]:
        # Suspending the viewport keeps Maya from evaluating. Switching the evaluation manager off
        # would be an undoable edit of its own and rebuild its graph twice.
        cmds.refresh(suspend=True)
        try:
            yield
        finally:
            cmds.refresh(suspend=False)

    @contextmanager
    def _selection_kept(self) -> Iterator[None]:
        before = cmds.ls(selection=True, long=True) or []
        try:
            yield
        finally:
            if (cmds.ls(selection=True, long=True) or []) != before:
                still_there = [name for name in before if cmds.objExists(name)]
                if still_there:
                    cmds.select(still_there, replace=True)
                else:
                    cmds.select(clear=True)

    # Nodes ------------------------------------------------------------------------------------

    def path(self, node: str) -> str:
        """Full path of a node given by name, path or UUID.

        Raises:
            MegasamError: ``node_not_found`` or ``node_name_ambiguous``.
        """
        found = cmds.ls(node, long=True) or []
        if not found:
            raise MegasamError(
                "node_not_found",
                f"There is no {node} in this scene.",
                "It may have been deleted or renamed: pick it again.",
            )
        if len(found) > 1:
            raise MegasamError(
                "node_name_ambiguous",
                f"{len(found)} nodes are called {node}: {', '.join(found[:3])}.",
                "Pick one of them.",
            )
        return found[0]

    def uuid(self, node: str) -> str:
        """What identifies the node whatever it is called and wherever it lies."""
        return cmds.ls(node, uuid=True)[0]

    def node_type(self, node: str) -> str:
        return cmds.nodeType(node)

    def parent(self, node: str) -> str | None:
        """Full path of the node's parent; None at the top."""
        parents = cmds.listRelatives(node, parent=True, fullPath=True)
        return parents[0] if parents else None

    def shape(self, transform: str, node_type: str) -> str | None:
        """Full path of the transform's first shape of that type."""
        shapes = cmds.listRelatives(transform, shapes=True, type=node_type, fullPath=True)
        return shapes[0] if shapes else None

    def is_referenced(self, node: str) -> bool:
        return cmds.referenceQuery(node, isNodeReferenced=True)

    def create(self, node_type: str, name: str, parent: str | None = None) -> str:
        """Full path of a new node; Maya may have given it another name."""
        with self._asking(f"create {node_type} {name}"):
            if parent is None:
                created = cmds.createNode(node_type, name=name, skipSelect=True)
            else:
                created = cmds.createNode(node_type, name=name, parent=parent, skipSelect=True)
            self._edits += 1
        return self.path(created)

    def duplicate(self, nodes: Sequence[str]) -> list[str]:
        """Copies of transforms with their shapes, beside them, in one call; their names."""
        with self._asking(f"duplicate {nodes[0]}"):
            copies = cmds.duplicate(*nodes, returnRootsOnly=True)
            self._edits += 1
        return copies

    def delete(self, *nodes: str) -> None:
        with self._asking(f"delete {', '.join(nodes)}"):
            cmds.delete(*nodes)
            self._edits += 1

    def move_under(self, node: str, parent: str) -> str:
        """Make ``node`` a child of ``parent`` with its own transform unchanged; its new path."""
        with self._asking(f"parent {node} under {parent}"):
            moved = cmds.parent(node, parent, relative=True)
            self._edits += 1
        return self.path(moved[0])

    # Attributes -------------------------------------------------------------------------------

    def get(self, plug: str) -> Any:
        """Value of ``node.attribute``; compounds as a tuple."""
        with self._asking(f"read {plug}"):
            value = cmds.getAttr(plug)
        return tuple(value[0]) if isinstance(value, list) and len(value) == 1 else value

    def get_length(self, plug: str) -> Any:
        """Value in cm of an attribute that is a length, or three of them."""
        value = self.get(plug)
        if isinstance(value, tuple):
            return tuple(v / self._ui_units_per_cm() for v in value)
        return value / self._ui_units_per_cm()

    def set(self, plug: str, value: bool | int | float | str | Sequence[float]) -> None:
        """Set ``node.attribute``; text and two or three numbers too."""
        with self._asking(f"set {plug}", plug):
            if isinstance(value, str):
                cmds.setAttr(plug, value, type="string")
            elif isinstance(value, bool | int | float):
                cmds.setAttr(plug, value)
            else:
                cmds.setAttr(plug, *value, type=f"double{len(value)}")
            self._edits += 1

    def set_length(self, plug: str, centimetres: float | Sequence[float]) -> None:
        """Set an attribute that is a length, or three of them."""
        factor = self._ui_units_per_cm()
        if isinstance(centimetres, int | float):
            self.set(plug, centimetres * factor)
        else:
            self.set(plug, [value * factor for value in centimetres])

    def lock(self, plug: str, locked: bool) -> None:
        with self._asking(f"{'lock' if locked else 'unlock'} {plug}"):
            cmds.setAttr(plug, lock=locked)
            self._edits += 1

    def locked_attributes(self, node: str) -> set[str]:
        """Long names of the node's locked attributes."""
        return set(cmds.listAttr(node, locked=True) or [])

    def incoming(self, node: str) -> dict[str, str]:
        """What drives the node: attribute (long name) -> plug that is connected to it."""
        pairs = cmds.listConnections(
            node, source=True, destination=False, connections=True, plugs=True
        )
        ends = iter(pairs or [])
        return {driven.split(".", 1)[1]: driver for driven, driver in zip(ends, ends, strict=True)}

    def has(self, node: str, attribute: str) -> bool:
        return cmds.attributeQuery(attribute, node=node, exists=True)

    def add_text(self, node: str, attribute: str) -> None:
        """A new attribute that holds text."""
        with self._asking(f"add {node}.{attribute}"):
            cmds.addAttr(node, longName=attribute, dataType="string")
            self._edits += 1

    def add_link(self, node: str, attribute: str) -> None:
        """A new attribute that can point to another node."""
        with self._asking(f"add {node}.{attribute}"):
            cmds.addAttr(node, longName=attribute, attributeType="message")
            self._edits += 1

    def add_switch(self, node: str, attribute: str, value: bool) -> None:
        """A new on/off attribute in the channel box."""
        with self._asking(f"add {node}.{attribute}"):
            cmds.addAttr(
                node, longName=attribute, attributeType="bool", defaultValue=value, keyable=True
            )
            self._edits += 1

    def add_share(self, node: str, attribute: str, value: float) -> None:
        """A new attribute from 0 to 1 in the channel box."""
        with self._asking(f"add {node}.{attribute}"):
            cmds.addAttr(
                node,
                longName=attribute,
                attributeType="double",
                minValue=0.0,
                maxValue=1.0,
                defaultValue=value,
                keyable=True,
            )
            self._edits += 1

    def connect(self, driver: str, driven: str) -> None:
        with self._asking(f"connect {driver} to {driven}", driven):
            cmds.connectAttr(driver, driven, force=True)
            self._edits += 1

    def disconnect(self, driver: str, driven: str) -> None:
        with self._asking(f"disconnect {driver} from {driven}"):
            cmds.disconnectAttr(driver, driven)
            self._edits += 1

    def linked(self, node: str, attribute: str) -> str | None:
        """Full path of the node that ``node.attribute`` points to, if there is one."""
        if not self.has(node, attribute):
            return None
        found = cmds.listConnections(
            f"{node}.{attribute}", source=True, destination=False, shapes=True
        )
        return self.path(found[0]) if found else None

    # Animation --------------------------------------------------------------------------------

    def is_plain_curve(self, driver: str) -> bool:
        """Whether this plug belongs to an animation curve over time."""
        return cmds.nodeType(driver.split(".", 1)[0]) in _CURVE_TYPES

    def animate(self, plug: str, kind: str, times: Sequence[int], values: Sequence[float]) -> None:
        """Drive ``node.attribute`` by a new curve with linear tangents; one that is there goes.

        Args:
            kind: ``TL`` for lengths (cm), ``TA`` for angles (degrees), ``TU`` for plain numbers.
            times: [N] frames, increasing.
            values: [N].
        """
        self.stop_animation(plug)
        node, attribute = plug.split(".", 1)
        curve = self.create(f"animCurve{kind}", f"{node.rsplit('|', 1)[-1]}_{attribute}")
        self.set(f"{curve}.weightedTangents", False)
        with self._asking(f"key {plug}", plug):
            # One call for all keys. It is not in the undo queue and need not be: the node is new,
            # and undo takes it away, redo brings it back as it is.
            selection = om.MSelectionList()
            selection.add(curve)
            function = oma.MFnAnimCurve(selection.getDependNode(0))
            unit = om.MTime.uiUnit()
            linear = oma.MFnAnimCurve.kTangentLinear
            internal = [math.radians(v) for v in values] if kind == "TA" else values
            function.addKeys(
                om.MTimeArray([om.MTime(float(time), unit) for time in times]),
                om.MDoubleArray([float(value) for value in internal]),
                linear,
                linear,
            )
        self.connect(f"{curve}.output", plug)

    def stop_animation(self, plug: str) -> None:
        """Take away the curve that drives ``node.attribute``, if one does."""
        drivers = cmds.listConnections(plug, source=True, destination=False, plugs=True) or []
        for driver in drivers:
            curve = driver.split(".", 1)[0]
            driven = cmds.listConnections(curve, source=False, destination=True, plugs=True) or []
            if len(driven) > 1:  # the artist uses it elsewhere as well
                self.disconnect(driver, plug)
            else:
                self.delete(curve)

    def keys(self, plug: str, kind: str) -> tuple[list[float], list[float]]:
        """Frames and values of the curve on ``node.attribute``; for ``kind`` see :meth:`animate`."""
        with self._asking(f"read the keys of {plug}"):
            times = cmds.keyframe(plug, query=True, timeChange=True) or []
            values = cmds.keyframe(plug, query=True, valueChange=True) or []
        factor = self._ui_units_per_cm() if kind == "TL" else 1.0
        return list(times), [value / factor for value in values]

    def value_at(self, plug: str, frame: float) -> float:
        """Value of an animated plain number or angle at a frame, without going there."""
        with self._asking(f"read {plug} at frame {frame:g}"):
            return cmds.getAttr(plug, time=frame)

    def length_at(self, plug: str, frame: float) -> float:
        """The same for a length, in cm."""
        return self.value_at(plug, frame) / self._ui_units_per_cm()

    def frame_rate(self) -> float:
        """Frames per second of the scene."""
        return om.MTime(1.0, om.MTime.kSeconds).asUnits(om.MTime.uiUnit())

    def set_playback_range(self, first: int, last: int) -> None:
        with self._asking(f"set the playback range to {first}-{last}"):
            cmds.playbackOptions(
                animationStartTime=first, minTime=first, maxTime=last, animationEndTime=last
            )
            self._edits += 1

    # Cameras and image planes -----------------------------------------------------------------

    def is_startup_camera(self, transform: str) -> bool:
        """persp, top, front and side, which belong to Maya."""
        return cmds.camera(transform, query=True, startupCamera=True)

    def selected_camera(self) -> str | None:
        """Full path of the transform of the first selected camera."""
        for node in cmds.ls(selection=True, long=True) or []:
            if cmds.nodeType(node) == "camera":
                return self.parent(node)
            if cmds.nodeType(node) == "transform" and self.shape(node, "camera"):
                return node
        return None

    def image_planes(self, camera_shape: str) -> list[str]:
        """Full paths of the shapes of the camera's image planes."""
        found = cmds.listConnections(
            f"{camera_shape}.imagePlane", source=True, destination=False, shapes=True
        )
        return [self.path(shape) for shape in found or []]

    def add_image_plane(self, camera_shape: str, file: str, name: str) -> tuple[str, str]:
        """Full paths (transform, shape) of a new image plane that only this camera shows."""
        # Expressions need a name that is the only one.
        while cmds.objExists(name) or cmds.objExists(f"{name}Shape"):
            name += "_"
        with self._asking(f"make an image plane for {camera_shape}"):
            created = cmds.imagePlane(
                camera=camera_shape, fileName=file, name=name, showInAllViews=False
            )
            self._edits += 1
        shape = self.path(created[1])
        return self.path(created[0]), shape

    def set_image(self, image_plane: str, file: str) -> None:
        """Show another picture on the image plane with this shape."""
        with self._asking(f"show {file} on {image_plane}"):
            cmds.imagePlane(image_plane, edit=True, fileName=file)
            self._edits += 1

    def drive_by_expression(self, plug: str, expression: str, name: str) -> None:
        """Let an expression compute ``node.attribute`` in place of whatever drives it."""
        self.stop_drive(plug)
        # The parser of expressions knows no paths into a camera's image planes ("shape->plane").
        node, attribute = plug.split(".", 1)
        leaf = node.rsplit("|", 1)[-1].rsplit("->", 1)[-1]
        self.path(leaf)
        with self._asking(f"write an expression for {plug}", plug):
            text = f"{leaf}.{attribute} = {expression}"
            cmds.expression(string=text, name=name, alwaysEvaluate=False)
            self._edits += 1

    def stop_drive(self, plug: str) -> None:
        """Take away what computes ``node.attribute``, and its expression if nothing else uses it."""
        drivers = cmds.listConnections(plug, source=True, destination=False, plugs=True) or []
        for driver in drivers:
            # Some versions make a drive of their own, which cannot be deleted, only disconnected.
            self.disconnect(driver, plug)
            node = driver.split(".", 1)[0]
            if cmds.nodeType(node) == "expression" and not cmds.listConnections(
                f"{node}.output", source=False, destination=True
            ):
                self.delete(node)

    # Positions --------------------------------------------------------------------------------

    def world_position(self, node: str) -> tuple[float, float, float]:
        """Position (cm) of a transform or a component such as a vertex."""
        with self._asking(f"read the position of {node}"):
            x, y, z = cmds.xform(node, query=True, worldSpace=True, translation=True)
        factor = self._ui_units_per_cm()
        return x / factor, y / factor, z / factor

    def selected_positions(self) -> list[tuple[float, float, float]]:
        """Positions (cm) of the selected transforms and components, in the order of selection;
        cameras are left out."""
        selected = cmds.ls(orderedSelection=True, long=True, flatten=True) or []
        return [self.world_position(node) for node in selected if not self._is_camera(node)]

    def selection(self) -> list[str]:
        """Full paths of what is selected."""
        return cmds.ls(selection=True, long=True) or []

    def cameras(self) -> list[str]:
        """Full paths of the transforms of all cameras."""
        shapes = cmds.ls(type="camera", long=True) or []
        return [shape.rpartition("|")[0] for shape in shapes]

    def _is_camera(self, node: str) -> bool:
        return "." not in node and (
            cmds.nodeType(node) == "camera" or self.shape(node, "camera") is not None
        )

    # The session ------------------------------------------------------------------------------

    def load_plugin(self, name: str) -> bool:
        """Whether a plug-in of Maya is there; it is loaded when it is not yet."""
        if cmds.pluginInfo(name, query=True, loaded=True):
            return True
        try:
            cmds.loadPlugin(name, quiet=True)
        except RuntimeError:
            return False
        return True

    def go_to_frame(self, frame: float) -> None:
        """Move the time line, because the artist asked for it."""
        cmds.currentTime(frame, edit=True)

    def current_frame(self) -> float:
        return cmds.currentTime(query=True)

    # Windows ----------------------------------------------------------------------------------

    def show_docked(self, control: str, title: str, ui_script: str) -> None:
        """Show the dock called ``control``; a new one is filled by ``ui_script``."""
        if cmds.workspaceControl(control, query=True, exists=True):
            cmds.workspaceControl(control, edit=True, restore=True)
            return
        cmds.workspaceControl(
            control,
            label=title,
            uiScript=ui_script,
            # Kept hidden, a closed dock makes trouble when Maya ends.
            retain=False,
            floating=True,
            initialWidth=900,
            initialHeight=700,
        )

    def dock_layout(self, control: str) -> Any:
        """The Qt layout inside a dock; None when there is no such dock."""
        from maya import OpenMayaUI
        from PySide6.QtWidgets import QWidget
        from shiboken6 import wrapInstance

        pointer = OpenMayaUI.MQtUtil.findControl(control)
        return wrapInstance(int(pointer), QWidget).layout() if pointer else None

    def on_exit(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call ``call`` when Maya is about to end; what is returned takes that back."""
        message = om.MSceneMessage
        callback = message.addCallback(message.kMayaExiting, lambda *_: call())
        return lambda: om.MMessage.removeCallback(callback)

    # ------------------------------------------------------------------------------------------

    @staticmethod
    def _ui_units_per_cm() -> float:
        return om.MDistance.internalToUI(1.0)

    @contextmanager
    def _asking(self, what: str, plug: str = "") -> Iterator[None]:
        """Turn what Maya says into an error that names the step and, for a plug, the cause."""
        try:
            yield
        except (RuntimeError, TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise MegasamError(
                "maya_refused", f"Maya did not {what}: {said}", _cause(plug) if plug else ""
            ) from error


def _cause(plug: str) -> str:
    """Why an attribute cannot be written, as far as Maya tells."""
    node, attribute = plug.split(".", 1)
    if not cmds.objExists(node):
        return f"{node} is not in the scene any more."
    if not cmds.attributeQuery(attribute.split("[", 1)[0], node=node, exists=True):
        return f"A {cmds.nodeType(node)} of this Maya version has no attribute {attribute}."
    if cmds.getAttr(plug, lock=True):
        return f"{plug} is locked: unlock it and apply again."
    drivers = cmds.listConnections(plug, source=True, destination=False, plugs=True)
    if drivers:
        return f"{plug} is driven by {drivers[0]}: disconnect it and apply again."
    return ""
