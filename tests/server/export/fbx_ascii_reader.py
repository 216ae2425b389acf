"""A reader of the part of ASCII FBX that cameras need, written from the format's description."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

_TOKEN = re.compile(r';[^\n]*|"[^"]*"|[{},:*\n]|[^\s{},:*"]+')
_KTIME = 46186158000
_EULER_ORDERS = {0: "xyz", 4: "zxy"}  # first letter is applied first


@dataclass
class FbxNode:
    name: str
    values: list = field(default_factory=list)
    children: list[FbxNode] = field(default_factory=list)

    def all(self, name: str) -> list[FbxNode]:
        return [child for child in self.children if child.name == name]

    def one(self, name: str) -> FbxNode:
        (child,) = self.all(name)
        return child

    def properties(self) -> dict[str, list]:
        (block,) = self.all("Properties70") or [FbxNode("")]
        return {p.values[0]: p.values[4:] for p in block.all("P")}


class FbxScene:
    """Objects by id, their connections, and animated values at a time in frames."""

    def __init__(self, path: Path) -> None:
        self.root = _parse(path.read_text(encoding="utf-8"))
        self.settings = self.root.one("GlobalSettings").properties()
        self.objects = {node.values[0]: node for node in self.root.one("Objects").children}
        counts = {
            entry.values[0]: entry.one("Count").values[0]
            for entry in self.root.one("Definitions").all("ObjectType")
        }
        for kind in {node.name for node in self.objects.values()}:
            assert counts[kind] == sum(n.name == kind for n in self.objects.values())
        self.links = [node.values for node in self.root.one("Connections").all("C")]
        for link in self.links:
            assert link[1] in self.objects and (link[2] in self.objects or link[2] == 0)

    def named(self, kind: str, name: str) -> int:
        (number,) = (
            i for i, n in self.objects.items() if n.name == kind and n.values[1].endswith(name)
        )
        return number

    def value(self, number: int, attribute: str, time: float) -> np.ndarray:
        """Static or animated property of an object at ``time`` seconds."""
        values = np.array(self.objects[number].properties()[attribute], dtype=float)
        for link in self.links:
            if link[0] == "OP" and link[2:] == [number, attribute]:
                curves = [c for c in self.links if c[0] == "OP" and c[2] == link[1]]
                order = {"d|X": 0, "d|Y": 1, "d|Z": 2}
                for _, curve, _, channel in curves:
                    values[order.get(channel, 0)] = self._curve(curve, time)
        return values

    def _curve(self, number: int, time: float) -> float:
        curve = self.objects[number]
        times, values = (
            np.array(curve.one(name).one("a").values, dtype=float)
            for name in ("KeyTime", "KeyValueFloat")
        )
        assert curve.one("KeyAttrFlags").one("a").values == [4], "only linear keys are read"
        return float(np.interp(time * _KTIME, times, values))

    def project(self, points: np.ndarray, time: float, width: int, height: int) -> np.ndarray:
        """World points (cm) to pixels of a rendered picture, corners at integers."""
        model = self.named("Model", "_cam")
        lens = self.named("NodeAttribute", "_camShape")
        properties = self.objects[model].properties()
        assert properties["RotationActive"] == [1]
        order = _EULER_ORDERS[properties["RotationOrder"][0]]
        angles = dict(zip("xyz", self.value(model, "Lcl Rotation", time), strict=True))
        turn = Rotation.from_euler(order, [angles[axis] for axis in order], degrees=True)
        post = Rotation.from_euler("xyz", properties["PostRotation"], degrees=True)
        local = (turn * post.inv()).inv().apply(points - self.value(model, "Lcl Translation", time))
        # An FBX camera looks along +X with +Y up, so +Z is right.
        focal = self.value(lens, "FocalLength", time)[0] / 25.4
        on_film = focal * local[:, [2, 1]] / local[:, :1]
        offset = [self.value(lens, name, time)[0] for name in ("FilmOffsetX", "FilmOffsetY")]
        film = [self.value(lens, name, time)[0] for name in ("FilmWidth", "FilmHeight")]
        x, y = ((on_film - offset) / film).T
        return np.stack([width * (0.5 + x), height * (0.5 - y)], axis=1)


def _parse(text: str) -> FbxNode:
    root = FbxNode("")
    stack = [root]
    tokens = [t for t in _TOKEN.findall(text) if not t.startswith(";")]
    for position, token in enumerate(tokens):
        following = tokens[position + 1] if position + 1 < len(tokens) else ""
        if token == "}":
            stack.pop()
        elif following == ":":
            node = FbxNode(token)
            stack[-1].children.append(node)
        elif token == "{":
            stack.append(stack[-1].children[-1])
        elif token not in (":", ",", "*", "\n"):
            stack[-1].children[-1].values.append(_value(token))
    assert stack == [root], "braces do not match"
    return root


def _value(token: str) -> int | float | str:
    if token.startswith('"'):
        return token[1:-1]
    for kind in (int, float):
        try:
            return kind(token)
        except ValueError:
            continue
    return token
