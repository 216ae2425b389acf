"""Commands of the stand-in about attributes, connections and keys."""

from __future__ import annotations

import math
from typing import Any

from tests.fake_maya.attributes import SHAPES, Attribute
from tests.fake_maya.scene import CM_PER_UNIT, Node, Scene

_NUMBERS = {"double", "distance", "angle", "long", "enum", "time"}
_REFUSED = "The attribute '{}' is locked or connected and cannot be modified."


class AttributeCommands:
    _scene: Scene

    # Values -----------------------------------------------------------------------------------

    def getAttr(self, text: str, *, lock: bool = False, time: float | None = None) -> Any:  # noqa: N802
        node, attribute, name = self._scene.plug(text)
        if lock:
            return self._scene.is_locked(node, attribute)
        if attribute.kind == "message" or attribute.multi:
            raise RuntimeError(f"The data type of the attribute {text} is not supported.")
        if attribute.children:
            return [tuple(self._read(node, child, time) for child in attribute.children)]
        return self._read(node, name, time)

    def _read(self, node: Node, name: str, time: float | None) -> Any:
        attribute = self._scene.find_attribute(node, name)
        value = self._scene.value(node, name, time)
        if attribute.kind == "matrix":
            return list(value)
        return self._to_ui(attribute, value)

    def _to_ui(self, attribute: Attribute, value: Any) -> Any:
        if attribute.kind == "distance":
            return value / CM_PER_UNIT[self._scene.linear]
        return math.degrees(value) if attribute.kind == "angle" else value

    def _from_ui(self, attribute: Attribute, value: Any) -> Any:
        if attribute.kind == "distance":
            return value * CM_PER_UNIT[self._scene.linear]
        return math.radians(value) if attribute.kind == "angle" else value

    def setAttr(  # noqa: N802
        self,
        text: str,
        *values: Any,
        type: str | None = None,  # noqa: A002
        lock: bool | None = None,
    ) -> None:
        node, attribute, name = self._scene.plug(text)
        if lock is not None:
            self._lock(node, attribute, lock)
        if not values:
            if lock is None:
                raise RuntimeError("setAttr: No values were given.")
            return
        if attribute.readable_only or attribute.kind == "message":
            raise RuntimeError(f"setAttr: The attribute '{text}' cannot be set.")
        if attribute.children:
            if type != f"double{len(attribute.children)}" or len(values) != len(attribute.children):
                raise RuntimeError(f"setAttr: Error reading data element of '{text}'.")
            for child, value in zip(attribute.children, values, strict=True):
                self._write(node, self._scene.find_attribute(node, child), value, text)
            return
        if len(values) != 1:
            raise RuntimeError(f"setAttr: Too much data for '{text}'.")
        if (attribute.kind == "string") != (type == "string"):
            raise RuntimeError(f"setAttr: The type '{type}' does not fit '{text}'.")
        self._write(node, attribute, values[0], text)

    def _lock(self, node: Node, attribute: Attribute, lock: bool) -> None:
        if node.referenced and not lock:
            raise RuntimeError(f"{node.name} is referenced: {attribute.long} stays locked.")
        before = set(node.locked)
        after = before | {attribute.long} if lock else before - {attribute.long}
        self._scene.edit(
            lambda: setattr(node, "locked", after), lambda: setattr(node, "locked", before)
        )

    def _write(self, node: Node, attribute: Attribute, value: Any, text: str) -> None:
        if self._scene.is_locked(node, attribute) or self._scene.source_of(node, attribute):
            raise RuntimeError(f"setAttr: {_REFUSED.format(text)}")
        if attribute.kind == "string":
            if not isinstance(value, str):
                raise RuntimeError(f"setAttr: '{text}' wants text, not {value!r}.")
        elif attribute.kind in _NUMBERS or attribute.kind == "bool":
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise RuntimeError(f"setAttr: '{text}' wants a number, not {value!r}.")
            low, high = attribute.minimum, attribute.maximum
            if (low is not None and value < low) or (high is not None and value > high):
                raise RuntimeError(
                    f"setAttr: Cannot set the attribute '{text}' past its minimum or maximum value."
                )
            if attribute.kind in ("long", "enum") and value != int(value):
                raise RuntimeError(f"setAttr: '{text}' wants a whole number, not {value!r}.")
        else:
            raise NotImplementedError(f"setting a {attribute.kind}")
        self._scene.set_value(node, attribute.long, self._from_ui(attribute, value))

    def addAttr(  # noqa: N802
        self,
        name: str,
        *,
        longName: str,
        attributeType: str = "",
        dataType: str = "",
        defaultValue: float | bool = 0,
        minValue: float | None = None,
        maxValue: float | None = None,
        keyable: bool = False,
    ) -> None:
        node = self._scene.node(name)
        if self._scene.find_attribute(node, longName) is not None:
            raise RuntimeError(f"Found invalid item: name '{longName}' exists already.")
        kind = attributeType or dataType
        allowed = {"string"} if dataType else {"bool", "double", "long", "message"}
        if kind not in allowed or (attributeType and dataType):
            raise RuntimeError(f"Type specified for new attribute is unknown: {kind}")
        default = None if kind in ("string", "message") else defaultValue
        attribute = Attribute(longName, longName, kind, default, minimum=minValue, maximum=maxValue)
        self._scene.edit(
            lambda: node.dynamic.__setitem__(longName, attribute),
            lambda: node.dynamic.pop(longName),
        )

    def attributeQuery(self, attribute: str, *, node: str, exists: bool = False) -> bool:  # noqa: N802
        return self._scene.find_attribute(self._scene.node(node), attribute) is not None

    def listAttr(self, name: str, *, locked: bool = False) -> list[str] | None:  # noqa: N802
        node = self._scene.node(name)
        attributes = self._scene.attributes(node).values()
        found = [a.long for a in attributes if not locked or a.long in node.locked]
        return found or None

    # Connections ------------------------------------------------------------------------------

    def connectAttr(self, source: str, driven: str, *, force: bool = False) -> None:  # noqa: N802
        from_node, from_attribute, from_name = self._scene.plug(source)
        to_node, to_attribute, to_name = self._scene.plug(driven)
        if (from_attribute.kind == "message") != (to_attribute.kind == "message"):
            raise RuntimeError(f"Data types of '{source}' and '{driven}' are not compatible.")
        if to_attribute.readable_only or to_attribute.kind == "string":
            raise RuntimeError(f"'{driven}' cannot be connected.")
        if self._scene.is_locked(to_node, to_attribute):
            raise RuntimeError(f"The attribute '{driven}' is locked and cannot be connected.")
        existing = self._scene.sources.get((to_node, to_name))
        if existing == (from_node, from_name):
            return  # a warning in Maya
        if existing is not None:
            if not force:
                raise RuntimeError(f"The destination attribute '{driven}' has a connection.")
            self._scene.disconnect((to_node, to_name))
        self._scene.connect((from_node, from_name), (to_node, to_name))

    def disconnectAttr(self, source: str, driven: str) -> None:  # noqa: N802
        from_node, _, from_name = self._scene.plug(source)
        to_node, _, to_name = self._scene.plug(driven)
        if self._scene.sources.get((to_node, to_name)) != (from_node, from_name):
            raise RuntimeError(f"There is no connection from '{source}' to '{driven}'.")
        self._scene.disconnect((to_node, to_name))

    def listConnections(  # noqa: N802
        self,
        text: str,
        *,
        source: bool = True,
        destination: bool = True,
        plugs: bool = False,
        connections: bool = False,
        shapes: bool = False,
    ) -> list[str] | None:
        if "." in text:
            node, attribute, name = self._scene.plug(text)
            mine = lambda plug: plug[0] is node and plug[1].split("[")[0] == attribute.long  # noqa: E731
            if "[" in name:
                mine = lambda plug: plug == (node, name)  # noqa: E731
        else:
            node = self._scene.node(text)
            mine = lambda plug: plug[0] is node  # noqa: E731
        pairs = []
        for driven, driver in self._scene.sources.items():
            if source and mine(driven):
                pairs.append((driven, driver))
            if destination and mine(driver):
                pairs.append((driver, driven))
        found = []
        for own, other in pairs:
            if connections:
                found.append(self._plug_name(own))
            found.append(self._plug_name(other) if plugs else self._node_name(other[0], shapes))
        return found or None

    def _plug_name(self, plug: tuple[Node, str]) -> str:
        return f"{self._scene.short_name(plug[0])}.{plug[1]}"

    def _node_name(self, node: Node, shapes: bool) -> str:
        if node.type in SHAPES and not shapes:
            node = node.parent
        return self._scene.short_name(node)

    # Keys -------------------------------------------------------------------------------------

    def keyframe(
        self,
        text: str,
        *,
        query: bool = False,
        timeChange: bool = False,
        valueChange: bool = False,
    ) -> list[float] | None:
        node, attribute, _ = self._scene.plug(text)
        driver = self._scene.source_of(node, attribute)
        if driver is None or not driver[0].type.startswith("animCurve"):
            return None
        keys = sorted(driver[0].keys.items())
        if timeChange:
            return [time for time, _ in keys]
        return [self._to_ui(attribute, value) for _, value in keys]

    def setKeyframe(  # noqa: N802
        self,
        text: str,
        *,
        time: float,
        value: float,
        inTangentType: str = "auto",
        outTangentType: str = "auto",
    ) -> int:
        node, attribute, name = self._scene.plug(text)
        if self._scene.is_locked(node, attribute):
            raise RuntimeError(f"setKeyframe: {_REFUSED.format(text)}")
        driver = self._scene.source_of(node, attribute)
        kind = {"distance": "TL", "angle": "TA"}.get(attribute.kind, "TU")
        if driver is None:
            curve = self._scene.create(f"animCurve{kind}", f"{node.name}_{attribute.long}")
            self._scene.connect((curve, "output"), (node, name))
        elif driver[0].type == f"animCurve{kind}":
            curve = driver[0]
        else:
            raise RuntimeError(f"{text} is driven by {driver[0].name}.")
        before = dict(curve.keys), curve.tangents
        after = before[0] | {float(time): self._from_ui(attribute, value)}, inTangentType

        def give(state: tuple[dict, str]) -> None:
            curve.keys, curve.tangents = state

        self._scene.edit(lambda: give(after), lambda: give(before))
        return 1
