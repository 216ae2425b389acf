"""The scene of the stand-in: nodes, connections, names, undo, and what attributes evaluate to."""

from __future__ import annotations

import copy
import re
import uuid as uuids
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fake_maya.attributes import DAG_TYPES, NODE_OF_PLUGIN, NODE_TYPES, SHAPES, Attribute

CM_PER_UNIT = {"mm": 0.1, "cm": 1.0, "m": 100.0, "in": 2.54, "ft": 30.48}
_UUID = re.compile(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}")


@dataclass(eq=False)
class Node:
    """A node; values of attributes in internal units, keys of curves too."""

    uuid: str
    name: str
    type: str
    parent: Node | None = None
    values: dict[str, Any] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    dynamic: dict[str, Attribute] = field(default_factory=dict)
    keys: dict[float, float] = field(default_factory=dict)
    tangents: str = ""
    referenced: bool = False


Plug = tuple[Node, str]


class Scene:
    """State of a session.

    Attributes:
        calls: how often each command was called.
        image_plane_drive: what Maya connects to a new image plane by itself: "none", "time" or
            "expression"; it differs between versions.
        plugins: that can be loaded.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.sources: dict[Plug, Plug] = {}
        self.selection: list[Node] = []
        self.linear = "cm"
        self.fps = 24.0
        self.current_time = 1.0
        self.playback = {"minTime": 1.0, "maxTime": 120.0}
        self.playback |= {"animationStartTime": 1.0, "animationEndTime": 200.0}
        self.plugins = {"mayaUsdPlugin", "OpenEXRLoader"}
        self.loaded_plugins: set[str] = set()
        self.image_plane_drive = "none"
        self.refresh_suspended = False
        self.calls: Counter[str] = Counter()
        self.undo_on = True
        self._undo: list[tuple[str, list]] = []
        self._redo: list[tuple[str, list]] = []
        self._open: list[tuple[str, list]] = []
        self._journal: list[tuple[Callable, Callable]] = []
        self.time1 = self._initial("time", "time1")
        for name in ("persp", "top", "front", "side"):
            self._initial("camera", f"{name}Shape", self._initial("transform", name))

    def _initial(self, node_type: str, name: str, parent: Node | None = None) -> Node:
        node = Node(str(uuids.uuid4()).upper(), name, node_type, parent)
        self.nodes.append(node)
        return node

    # Undo -------------------------------------------------------------------------------------

    def edit(self, do: Callable[[], None], undo: Callable[[], None]) -> None:
        """Do it, and remember how to take it back."""
        do()
        self._journal.append((undo, do))

    def open_chunk(self, name: str) -> None:
        self._open.append((name, self._journal))
        self._journal = []

    def close_chunk(self) -> None:
        if not self._open:
            raise RuntimeError("There is no open undo chunk to close.")
        name, outer = self._open.pop()
        entries, self._journal = self._journal, outer
        if self._open:
            self._journal += entries
        elif entries and self.undo_on:
            self._undo.append((name, entries))
            self._redo.clear()

    def undo(self) -> None:
        if len(self._open) > 1:  # the command "undo" itself is one
            raise RuntimeError("Undo inside an open chunk.")
        if not self._undo:
            raise RuntimeError("There are no more commands to undo.")
        name, entries = self._undo.pop()
        for take_back, _ in reversed(entries):
            take_back()
        self._redo.append((name, entries))

    def redo(self) -> None:
        name, entries = self._redo.pop()
        for _, do in entries:
            do()
        self._undo.append((name, entries))

    @property
    def undo_names(self) -> list[str]:
        """Names of the steps that can be undone, the last one last."""
        return [name for name, _ in self._undo]

    @property
    def chunk_is_open(self) -> bool:
        return bool(self._open)

    def snapshot(self) -> dict[str, Any]:
        """Everything that a saved scene would hold, to compare."""
        return {
            "nodes": {
                node.uuid: (
                    *(node.name, node.type, node.parent and node.parent.uuid),
                    *(copy.deepcopy(node.values), sorted(node.locked), sorted(node.dynamic)),
                    *(dict(node.keys), node.tangents),
                )
                for node in self.nodes
            },
            "connections": {
                f"{d.uuid}.{a}": f"{s.uuid}.{b}" for (d, a), (s, b) in self.sources.items()
            },
            "selection": [node.uuid for node in self.selection],
            "playback": dict(self.playback),
            "units": (self.linear, self.fps, self.current_time),
        }

    # Nodes and names --------------------------------------------------------------------------

    def find(self, name: str) -> list[Node]:
        """Nodes of that UUID, name, partial or full path; ``*`` stands for anything."""
        if _UUID.fullmatch(name):
            return [node for node in self.nodes if node.uuid == name]
        camera, joint, inside = name.rpartition("->")
        if joint:  # into the world of a camera's image planes
            cameras = self.find(camera)
            return [n for n in self.find(inside.lstrip("|")) if self.camera_of(n) in cameras]
        parts = [part for part in name.split("|") if part]
        if not parts:
            return []
        patterns = [re.compile(re.escape(part).replace(r"\*", ".*")) for part in parts]
        return [node for node in self.nodes if self._fits(node, patterns, name.startswith("|"))]

    @staticmethod
    def _fits(node: Node, patterns: list[re.Pattern], absolute: bool) -> bool:
        at: Node | None = node
        for pattern in reversed(patterns):
            if at is None or not pattern.fullmatch(at.name):
                return False
            at = at.parent
        return at is None or not absolute

    def node(self, name: str) -> Node:
        """The one node of that name.

        Raises:
            ValueError: as Maya, none or more than one.
        """
        if _UUID.fullmatch(name):  # commands take names; only ls knows UUIDs
            raise ValueError(f"No object matches name: {name}")
        found = self.find(name)
        if not found:
            raise ValueError(f"No object matches name: {name}")
        if len(found) > 1:
            raise ValueError(f"More than one object matches name: {name}")
        return found[0]

    def long_name(self, node: Node) -> str:
        if node.type not in DAG_TYPES:
            return node.name
        if node.parent is None:
            return f"|{node.name}"
        joint = "->|" if node.parent.type in SHAPES else "|"
        return f"{self.long_name(node.parent)}{joint}{node.name}"

    def short_name(self, node: Node) -> str:
        """The shortest name that nothing else has; image planes go by their camera's."""
        camera = self.camera_of(node)
        if camera is not None:
            return f"{self.short_name(camera)}->{node.name}"
        name, at = node.name, node
        while len(self.find(name)) > 1 and at.parent is not None:
            at = at.parent
            name = f"{at.name}|{name}"
        return name if len(self.find(name)) == 1 else self.long_name(node)

    @staticmethod
    def camera_of(node: Node) -> Node | None:
        """The camera shape that a node of its image planes lies under."""
        at = node.parent
        while at is not None and at.type != "camera":
            at = at.parent
        return at

    def children(self, node: Node) -> list[Node]:
        return [child for child in self.nodes if child.parent is node]

    def below(self, node: Node) -> Iterator[Node]:
        for child in self.children(node):
            yield child
            yield from self.below(child)

    def create(self, node_type: str, name: str, parent: Node | None = None) -> Node:
        if node_type not in NODE_TYPES:
            raise RuntimeError(f"Unknown object type: {node_type}")
        plugin = NODE_OF_PLUGIN.get(node_type)
        if plugin and plugin not in self.loaded_plugins:
            raise RuntimeError(f"Unknown object type: {node_type}")
        if parent is not None and node_type not in DAG_TYPES:
            raise RuntimeError(f"{node_type} nodes cannot have a parent.")
        node = Node(
            str(uuids.uuid4()).upper(), self.free_name(name, node_type, parent), node_type, parent
        )
        self.edit(lambda: self.nodes.append(node), lambda: self.nodes.remove(node))
        return node

    def free_name(self, name: str, node_type: str, parent: Node | None) -> str:
        """Illegal characters replaced and a number at the end, as Maya does."""
        plain = re.sub(r"[^A-Za-z0-9_:]", "_", name)
        plain = f"_{plain}" if plain[:1].isdigit() else plain
        if node_type in DAG_TYPES:
            taken = {n.name for n in self.nodes if n.type not in DAG_TYPES or n.parent is parent}
        else:
            taken = {n.name for n in self.nodes}
        stem, number = re.fullmatch(r"(.*?)(\d*)", plain).groups()
        while plain in taken:
            number = str(int(number or 0) + 1).zfill(len(number))
            plain = f"{stem}{number}"
        return plain

    def delete(self, node: Node) -> None:
        doomed = [node, *self.below(node)]
        orphans = {
            source
            for (driven, _), (source, _) in self.sources.items()
            if driven in doomed and source.type.startswith("animCurve")
        }
        for plug, source in list(self.sources.items()):
            if plug[0] in doomed or source[0] in doomed:
                self.disconnect(plug, although_locked=plug[0] in doomed)
        for each in reversed(doomed):
            index = self.nodes.index(each)
            self.edit(
                lambda each=each: self.nodes.remove(each),
                lambda each=each, index=index: self.nodes.insert(index, each),
            )
        for curve in orphans:  # Maya keeps no curve that drives nothing any more
            if curve in self.nodes and not self.driven_by(curve):
                self.delete(curve)
        self.select([n for n in self.selection if n not in doomed])

    def select(self, nodes: list[Node]) -> None:
        before, after = self.selection, list(nodes)
        if after != before:
            self.edit(
                lambda: setattr(self, "selection", after),
                lambda: setattr(self, "selection", before),
            )

    # Attributes -------------------------------------------------------------------------------

    def attributes(self, node: Node) -> dict[str, Attribute]:
        return NODE_TYPES[node.type] | node.dynamic

    def find_attribute(self, node: Node, name: str) -> Attribute | None:
        name = name.split("[", 1)[0]
        attributes = self.attributes(node)
        return attributes.get(name) or next(
            (a for a in attributes.values() if a.short == name), None
        )

    def plug(self, text: str) -> tuple[Node, Attribute, str]:
        """Node, attribute, and its long name with the index, of ``node.attribute``.

        Raises:
            ValueError: as Maya: "No object matches name: ...".
        """
        name, dot, attribute_text = text.partition(".")
        if not dot:
            raise ValueError(f"No object matches name: {text}")
        node = self.node(name)
        attribute = self.find_attribute(node, attribute_text)
        if attribute is None:
            raise ValueError(f"No object matches name: {text}")
        index = attribute_text[attribute_text.index("[") :] if "[" in attribute_text else ""
        if bool(index) and not attribute.multi:
            raise ValueError(f"No object matches name: {text}")
        return node, attribute, attribute.long + index

    def is_locked(self, node: Node, attribute: Attribute) -> bool:
        return attribute.long in node.locked or attribute.parent in node.locked

    def set_value(self, node: Node, name: str, value: Any) -> None:
        missing = object()
        before = node.values.get(name, missing)

        def take_back() -> None:
            if before is missing:
                node.values.pop(name, None)
            else:
                node.values[name] = before

        self.edit(lambda: node.values.__setitem__(name, value), take_back)

    def source_of(self, node: Node, attribute: Attribute) -> Plug | None:
        """What drives an attribute, itself or through its compound."""
        direct = self.sources.get((node, attribute.long))
        if direct is None and attribute.parent:
            whole = self.sources.get((node, attribute.parent))
            if whole is not None:
                position = self.attributes(node)[attribute.parent].children.index(attribute.long)
                source = self.attributes(whole[0])[whole[1]]
                return whole[0], source.children[position]
        return direct

    def connect(self, source: Plug, driven: Plug) -> None:
        self.edit(
            lambda: self.sources.__setitem__(driven, source), lambda: self.sources.pop(driven)
        )

    def disconnect(self, driven: Plug, although_locked: bool = False) -> None:
        source = self.sources[driven]
        attribute = self.find_attribute(*driven)
        is_locked = attribute is not None and self.is_locked(driven[0], attribute)
        if is_locked and not although_locked:
            raise RuntimeError(f"The attribute '{driven[0].name}.{driven[1]}' is locked.")
        self.edit(
            lambda: self.sources.pop(driven), lambda: self.sources.__setitem__(driven, source)
        )

    def driven_by(self, node: Node) -> list[Plug]:
        return [driven for driven, (source, _) in self.sources.items() if source is node]

    def value(self, node: Node, name: str, time: float | None = None) -> Any:
        """Value of a leaf attribute at a time, in internal units."""
        time = self.current_time if time is None else time
        attribute = self.find_attribute(node, name)
        source = self.source_of(node, attribute)
        if source is None:
            return node.values.get(attribute.long, attribute.default)
        driver, output = source
        if driver is self.time1:
            value = time
        elif driver.type.startswith("animCurve"):
            value = curve_value(driver, time)
        elif driver.type == "expression":
            value = expression_value(driver, time)
        else:
            value = self.value(driver, output, time)
        return round(value) if attribute.kind == "long" else value


def curve_value(curve: Node, time: float) -> float:
    """A curve with linear tangents and constant ends."""
    if not curve.keys:
        return 0.0
    if curve.tangents != "linear":
        raise NotImplementedError(f"{curve.name} has {curve.tangents} tangents: not evaluated")
    times = sorted(curve.keys)
    after = bisect_right(times, time)
    if after == 0 or after == len(times):
        return curve.keys[times[max(0, after - 1)]]
    left, right = times[after - 1], times[after]
    share = (time - left) / (right - left)
    return curve.keys[left] * (1 - share) + curve.keys[right] * share


def expression_value(expression: Node, time: float) -> float:
    text = expression.values["expression"].partition("=")[2]
    sign, _, shift = text.replace("frame", "", 1).strip().partition(" ")
    return time + (int(f"{sign}{shift}") if sign else 0)
