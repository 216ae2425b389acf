"""``maya.cmds`` of the stand-in: the commands that the plug-in uses, as strict as Maya's own.

Flags are keyword arguments, long names only; one that Maya's command does not have, or of a wrong
type, is a TypeError. Everything else goes wrong as RuntimeError or ValueError, as in Maya.
"""

from __future__ import annotations

import functools
import inspect
import threading
import typing
from collections.abc import Callable
from typing import Any

from tests.fake_maya.attribute_commands import AttributeCommands
from tests.fake_maya.attributes import SHAPES
from tests.fake_maya.camera_commands import CameraCommands
from tests.fake_maya.scene import CM_PER_UNIT, Node, Scene

Number = int | float


def module_functions(scene: Scene) -> dict[str, Callable]:
    """The commands by name, each checked, counted and one undo step unless in a chunk."""
    commands = Commands(scene)
    return {
        name: _checked(scene, name, getattr(commands, name))
        for name, function in inspect.getmembers(Commands, inspect.isfunction)
        if not name.startswith("_")
    }


def _checked(scene: Scene, name: str, function: Callable) -> Callable:
    types = typing.get_type_hints(function)
    signature = inspect.signature(function)
    flags = {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    # These begin and end steps themselves.
    own_steps = name in ("undoInfo", "undo", "redo")

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{name} was called outside the main thread: Maya may crash.")
        for flag, value in kwargs.items():
            if flag not in flags:
                raise TypeError(f"Invalid flag '{flag}'")
            wanted = bool if kwargs.get("query") else types[flag]
            kinds = set(typing.get_args(wanted) or (wanted,))
            if float in kinds:
                kinds.add(int)
            if not any(type(value) is kind for kind in kinds):
                raise TypeError(
                    f"Invalid arguments for flag '{flag}'. Expected {wanted}, got {value!r}"
                )
        scene.calls[name] += 1
        if own_steps:
            return function(*args, **kwargs)
        scene.open_chunk(name)
        try:
            return function(*args, **kwargs)
        finally:
            scene.close_chunk()

    return command


class Commands(AttributeCommands, CameraCommands):
    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    # Undo and the session ---------------------------------------------------------------------

    def undoInfo(  # noqa: N802
        self,
        *,
        openChunk: bool = False,
        closeChunk: bool = False,
        chunkName: str = "",
        query: bool = False,
        state: bool | None = None,
        stateWithoutFlush: bool | None = None,
        undoName: bool = False,
    ) -> Any:
        if query:
            return self._scene.undo_on if state else self._scene.undo_names[-1]
        if openChunk:
            self._scene.open_chunk(chunkName)
        elif closeChunk:
            self._scene.close_chunk()
        elif stateWithoutFlush is not None:
            self._scene.undo_on = stateWithoutFlush
        return None

    def undo(self) -> None:
        if self._scene.chunk_is_open:
            raise RuntimeError("undo inside an open chunk")
        self._scene.undo()

    def redo(self) -> None:
        self._scene.redo()

    def refresh(self, *, suspend: bool | None = None) -> None:
        if suspend is not None:
            self._scene.refresh_suspended = suspend

    def currentUnit(self, *, linear: str | None = None, query: bool = False) -> str | None:  # noqa: N802
        if query:
            return self._scene.linear
        if linear not in CM_PER_UNIT:
            raise RuntimeError(f"Invalid linear unit: {linear}")
        self._scene.linear = linear
        return None

    def currentTime(self, time: Number | None = None, *, edit: bool = False, query: bool = False):  # noqa: N802
        if query:
            return self._scene.current_time
        self._scene.current_time = float(time)
        return self._scene.current_time

    def playbackOptions(  # noqa: N802
        self,
        *,
        minTime: float | bool | None = None,
        maxTime: float | bool | None = None,
        animationStartTime: float | bool | None = None,
        animationEndTime: float | bool | None = None,
        query: bool = False,
    ) -> float | None:
        given = {
            **{"minTime": minTime, "maxTime": maxTime},
            **{"animationStartTime": animationStartTime, "animationEndTime": animationEndTime},
        }
        given = {key: value for key, value in given.items() if value is not None}
        before = dict(self._scene.playback)
        if query:
            return before[next(iter(given))]
        after = before | {key: float(value) for key, value in given.items()}
        self._scene.edit(
            lambda: setattr(self._scene, "playback", after),
            lambda: setattr(self._scene, "playback", before),
        )
        return None

    def pluginInfo(self, name: str, *, query: bool = False, loaded: bool = False) -> bool:  # noqa: N802
        return name in self._scene.loaded_plugins

    def loadPlugin(self, name: str, *, quiet: bool = False) -> list[str]:  # noqa: N802
        if name not in self._scene.plugins:
            raise RuntimeError(f"Plug-in, '{name}', was not found on MAYA_PLUG_IN_PATH.")
        self._scene.loaded_plugins.add(name)
        return [name]

    # Nodes ------------------------------------------------------------------------------------

    def createNode(  # noqa: N802
        self, node_type: str, *, name: str = "", parent: str = "", skipSelect: bool = False
    ) -> str:
        above = self._scene.node(parent) if parent else None
        node = self._scene.create(node_type, name or f"{node_type}1", above)
        if not skipSelect:
            self._scene.select([node])
        return self._scene.short_name(node)

    def ls(
        self,
        *names: str,
        long: bool = False,
        uuid: bool = False,
        selection: bool = False,
        orderedSelection: bool = False,
        flatten: bool = False,
        type: str | None = None,  # noqa: A002
    ) -> list[str]:
        if selection or orderedSelection:
            nodes = self._scene.selection
        elif names:
            nodes = [node for name in names for node in self._scene.find(name)]
        else:
            nodes = self._scene.nodes
        nodes = [node for node in nodes if type is None or node.type == type]
        if uuid:
            return [node.uuid for node in nodes]
        return [self._scene.long_name(n) if long else self._scene.short_name(n) for n in nodes]

    def objExists(self, name: str) -> bool:  # noqa: N802
        if "." in name:
            try:
                self._scene.plug(name)
            except ValueError:
                return False
            return True
        return bool(self._scene.find(name))

    def nodeType(self, name: str) -> str:  # noqa: N802
        return self._scene.node(name.split(".")[0]).type

    def referenceQuery(self, name: str, *, isNodeReferenced: bool = False) -> bool:  # noqa: N802
        return self._scene.node(name).referenced

    def select(self, names: str | list = (), *, replace: bool = False, clear: bool = False) -> None:
        names = [names] if isinstance(names, str) else names
        self._scene.select([] if clear else [self._scene.node(name) for name in names])

    def listRelatives(  # noqa: N802
        self,
        name: str,
        *,
        parent: bool = False,
        shapes: bool = False,
        children: bool = False,
        allDescendents: bool = False,
        type: str | None = None,  # noqa: A002
        fullPath: bool = False,
    ) -> list[str] | None:
        node = self._scene.node(name)
        if parent:
            found = [node.parent] if node.parent else []
        elif allDescendents:
            found = list(self._scene.below(node))
        else:
            found = self._scene.children(node)
        if shapes:
            found = [child for child in found if child.type in SHAPES]
        found = [child for child in found if type is None or child.type == type]
        naming = self._scene.long_name if fullPath else self._scene.short_name
        return [naming(child) for child in found] or None

    def parent(self, name: str, above: str = "", *, relative: bool = False, world: bool = False):
        node = self._scene.node(name)
        target = None if world else self._scene.node(above)
        if not relative:
            raise NotImplementedError("parent keeps the transform as it is only with relative=True")
        if node.referenced:
            raise RuntimeError(f"{name} is referenced: it cannot be parented.")
        before = node.parent, node.name
        after = target, self._scene.free_name(node.name, node.type, target)

        def give(place: tuple[Node | None, str]) -> None:
            node.parent, node.name = place

        self._scene.edit(lambda: give(after), lambda: give(before))
        return [self._scene.short_name(node)]

    def rename(self, name: str, new: str) -> str:
        node = self._scene.node(name)
        before = node.name
        after = self._scene.free_name(new, node.type, node.parent)
        self._scene.edit(
            lambda: setattr(node, "name", after), lambda: setattr(node, "name", before)
        )
        return self._scene.short_name(node)

    def duplicate(self, *originals: str, name: str = "", returnRootsOnly: bool = False):
        sources = [self._scene.node(original) for original in originals]
        copies = [self._copy(source, name or source.name, source.parent) for source in sources]
        self._scene.select(copies)
        return [self._scene.short_name(copied) for copied in copies]

    def _copy(self, source: Node, name: str, parent: Node | None) -> Node:
        copied = self._scene.create(source.type, name, parent)
        for attribute, value in source.values.items():
            self._scene.set_value(copied, attribute, value)
        for child in self._scene.children(source):
            child_name = f"{copied.name}Shape" if child.type in SHAPES else child.name
            self._copy(child, child_name, copied)
        return copied

    def delete(self, *names: str) -> None:
        nodes = [self._scene.node(name) for name in names]
        if any(node.referenced for node in nodes):
            raise RuntimeError("Referenced nodes cannot be deleted.")
        for node in nodes:
            if node in self._scene.nodes:
                self._scene.delete(node)
