"""Commands of the stand-in about cameras, image planes, expressions and positions."""

from __future__ import annotations

import re
from typing import Any

from tests.fake_maya.attributes import SHAPES
from tests.fake_maya.matrices import world_matrix
from tests.fake_maya.scene import CM_PER_UNIT, Node, Scene

_DRIVE = re.compile(r"\s*([A-Za-z_]\w*)\.(\w+)\s*=\s*frame( [+-] \d+)?\s*;?\s*")
_STARTUP = ("persp", "top", "front", "side")


class CameraCommands:
    _scene: Scene

    def camera(
        self,
        node: str = "",
        *,
        name: str = "",
        startupCamera: bool = False,
        query: bool = False,
    ) -> Any:
        if query:
            found = self._scene.node(node)
            return found.name.removesuffix("Shape") in _STARTUP
        transform = self._scene.create("transform", name or "camera1")
        # Maya counts on its own: the name asked for may come back with a 1.
        shape = self._scene.create("camera", f"{transform.name}Shape", transform)
        self._scene.set_value(shape, "filmFit", 0)
        self._scene.select([transform])
        return [self._scene.short_name(transform), self._scene.short_name(shape)]

    def imagePlane(  # noqa: N802
        self,
        plane: str = "",
        *,
        camera: str = "",
        fileName: str = "",
        name: str = "",
        showInAllViews: bool = True,
        edit: bool = False,
    ) -> list[str] | None:
        if edit:
            shape = self._scene.node(plane)
            if shape.type != "imagePlane":
                raise RuntimeError(f"{plane} is not an image plane.")
            self._scene.set_value(shape, "imageName", fileName)
            return None
        camera_shape = self._scene.node(camera)
        if camera_shape.type != "camera":
            raise RuntimeError(f"{camera} is not a camera.")
        transform = self._scene.create("transform", name or "imagePlane1", camera_shape)
        shape = self._scene.create("imagePlane", f"{transform.name}Shape", transform)
        self._scene.set_value(shape, "imageName", fileName)
        self._scene.set_value(shape, "displayOnlyIfCurrent", not showInAllViews)
        taken = [a for node, a in self._scene.sources if node is camera_shape]
        index = next(i for i in range(len(taken) + 1) if f"imagePlane[{i}]" not in taken)
        self._scene.connect((shape, "message"), (camera_shape, f"imagePlane[{index}]"))
        if self._scene.image_plane_drive == "time":
            self._scene.connect((self._scene.time1, "outTime"), (shape, "frameExtension"))
        elif self._scene.image_plane_drive == "expression":
            self._expression(shape, f"{shape.name}.frameExtension=frame", "expression1")
        self._scene.select([transform])
        return [self._scene.short_name(transform), self._scene.short_name(shape)]

    def expression(self, *, string: str = "", name: str = "", alwaysEvaluate: bool = True) -> str:
        understood = _DRIVE.fullmatch(string)
        if understood is None:
            raise RuntimeError(f"Error occurred during execution of expression: {string}")
        node, attribute, _ = self._scene.plug(f"{understood[1]}.{understood[2]}")
        if self._scene.source_of(node, attribute) is not None:
            raise RuntimeError(f"Attribute already controlled by an expression, keyframe: {string}")
        if self._scene.is_locked(node, attribute):
            raise RuntimeError(f"Cannot set locked attribute: {string}")
        return self._expression(node, string, name or "expression1").name

    def _expression(self, node: Node, text: str, name: str) -> Node:
        expression = self._scene.create("expression", name)
        self._scene.set_value(expression, "expression", text)
        driven = text.partition("=")[0].strip().rpartition(".")[2]
        self._scene.connect((self._scene.time1, "outTime"), (expression, "time"))
        self._scene.connect((expression, "output[0]"), (node, driven))
        return expression

    def xform(
        self,
        name: str,
        *,
        query: bool = False,
        worldSpace: bool = False,
        translation: bool = False,
    ) -> Any:
        if not (query and worldSpace and translation):
            raise NotImplementedError("xform only tells world positions")
        node = self._scene.node(name)
        if node.type in SHAPES:
            node = node.parent
        position = world_matrix(self._scene, node)[3, :3] / CM_PER_UNIT[self._scene.linear]
        return position.tolist()
