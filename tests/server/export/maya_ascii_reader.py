"""A reader of the part of Maya ASCII that cameras need, written from Maya's documentation alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_TOKEN = re.compile(r'//[^\n]*|"(?:[^"\\]|\\.)*"|;|[^\s;"]+')
_ESCAPES = {'\\"': '"', "\\\\": "\\", "\\n": "\n", "\\t": "\t"}


@dataclass
class MayaNode:
    type: str
    parent: str | None
    attributes: dict[str, list[str]] = field(default_factory=dict)


class MayaScene:
    """Nodes and connections of a ``.ma``; ``value`` evaluates an attribute at a time in frames."""

    def __init__(self, path: Path) -> None:
        self.nodes: dict[str, MayaNode] = {}
        self.inputs: dict[str, str] = {}
        self.current_unit: list[str] = []
        node = None
        for command, *arguments in _statements(path.read_text(encoding="utf-8")):
            if command == "createNode":
                node = MayaNode(arguments[0], _flag(arguments, "-p"))
                name = _flag(arguments, "-n")
                assert name not in self.nodes, f"{name} is created twice"
                assert node.parent is None or node.parent in self.nodes
                self.nodes[name] = node
            elif command == "setAttr":
                attribute, values = _set_attr(arguments)
                node.attributes[attribute] = values
            elif command == "connectAttr":
                source, target = arguments[:2]
                assert target not in self.inputs
                self.inputs[target] = source
            elif command == "currentUnit":
                self.current_unit = arguments
            else:
                assert command in ("requires", "addAttr"), f"unexpected command {command}"

    def named(self, node_type: str) -> list[str]:
        return [name for name, node in self.nodes.items() if node.type == node_type]

    def value(self, plug: str, frame: float) -> float:
        """One number: the connected curve's, else the attribute's own."""
        if plug in self.inputs:
            return self._curve(self.inputs[plug].split(".")[0], frame)
        node, attribute = plug.split(".")
        attributes = self.nodes[node].attributes
        if f".{attribute}" in attributes:
            return float(attributes[f".{attribute}"][0])
        for compound, children in {
            ".t": ("tx", "ty", "tz"),
            ".r": ("rx", "ry", "rz"),
            ".o": ("ox", "oy"),
        }.items():
            if attribute in children:
                values = attributes.get(compound, ["0"] * 3)
                return float(values[children.index(attribute)])
        raise KeyError(plug)

    def _curve(self, name: str, frame: float) -> float:
        curve = self.nodes[name]
        assert curve.type.startswith("animCurveT")
        assert curve.attributes[".tan"] == ["2"], "only linear tangents are read"
        (keys,) = (v for k, v in curve.attributes.items() if k.startswith(".ktv["))
        times, values = np.array(keys, dtype=float).reshape(-1, 2).T
        return float(np.interp(frame, times, values))

    def world_matrix(self, transform: str, frame: float) -> np.ndarray:
        """Column-vector matrix of a transform with rotate order zxy (or none) and no scale."""
        t = [self.value(f"{transform}.t{axis}", frame) for axis in "xyz"]
        rx, ry, rz = (np.radians(self.value(f"{transform}.r{axis}", frame)) for axis in "xyz")
        if (rx, ry, rz) != (0, 0, 0):
            assert self.nodes[transform].attributes[".ro"] == ["2"]
        cx, sx, cy, sy = np.cos(rx), np.sin(rx), np.cos(ry), np.sin(ry)
        cz, sz = np.cos(rz), np.sin(rz)
        about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        matrix = np.eye(4)
        matrix[:3, :3] = about_y @ about_x @ about_z  # zxy: z is applied first
        matrix[:3, 3] = t
        parent = self.nodes[transform].parent
        return self.world_matrix(parent, frame) @ matrix if parent else matrix

    def project(self, points: np.ndarray, frame: float, width: int, height: int) -> np.ndarray:
        """World points (cm) to pixels of a rendered picture, corners at integers."""
        (shape,) = self.named("camera")
        camera = self.nodes[shape]
        to_world = self.world_matrix(camera.parent, frame)
        local = (points - to_world[:3, 3]) @ to_world[:3, :3]
        assert camera.attributes[".ff"] == ["1"]
        film_width = float(camera.attributes[".cap"][0])
        film_height = film_width * height / width  # film fit horizontal: the height follows
        focal = self.value(f"{shape}.fl", frame) / 25.4
        on_film = focal * local[:, :2] / -local[:, 2:]
        offset = [self.value(f"{shape}.{name}", frame) for name in ("hfo", "vfo")]
        x, y = ((on_film - offset) / (film_width, film_height)).T
        return np.stack([width * (0.5 + x), height * (0.5 - y)], axis=1)


def _statements(text: str) -> list[list[str]]:
    statements, current = [], []
    for token in _TOKEN.findall(text):
        if token.startswith("//"):
            continue
        if token == ";":
            statements.append(current)
            current = []
        elif token.startswith('"'):
            current.append(re.sub(r"\\.", lambda m: _ESCAPES[m.group()], token[1:-1]))
        else:
            current.append(token)
    assert not current, f"statement without end: {current[:5]}"
    return statements


def _flag(arguments: list[str], flag: str) -> str | None:
    return arguments[arguments.index(flag) + 1] if flag in arguments else None


def _set_attr(arguments: list[str]) -> tuple[str, list[str]]:
    values = list(arguments)
    for flag in ("-k", "-s"):
        if values[0] == flag:
            values = values[2:]
    attribute, *values = values
    return attribute, values[2:] if values[:1] == ["-type"] else values
