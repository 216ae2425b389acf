"""Where nodes are: 4x4 matrices as Maya has them, row vectors times matrix, translation in row 3.

Written from Maya's documentation of the transform node, apart from the plug-in's own mathematics.
"""

from __future__ import annotations

import numpy as np

from tests.fake_maya.scene import Node, Scene

_ORDERS = ("xyz", "yzx", "zxy", "xzy", "yxz", "zyx")


def local_matrix(scene: Scene, node: Node, time: float | None = None) -> np.ndarray:
    """[SP]-1[S][Sh][SP][ST][RP]-1[RA][R][RP][RT][T][OPM] of a transform, cm."""

    def three(attribute: str) -> np.ndarray:
        return np.array([scene.value(node, f"{attribute}{axis}", time) for axis in "XYZ"], float)

    scale = np.diag([*three("scale"), 1.0])
    shear = np.eye(4)
    shear[1, 0], shear[2, 0], shear[2, 1] = (
        scene.value(node, f"shear{axes}", time) for axes in ("XY", "XZ", "YZ")
    )
    order = _ORDERS[scene.value(node, "rotateOrder", time)]
    scale_pivot, rotate_pivot = three("scalePivot"), three("rotatePivot")
    steps = [
        *(_shift(-scale_pivot), scale, shear, _shift(scale_pivot)),
        *(_shift(three("scalePivotTranslate")), _shift(-rotate_pivot)),
        *(_rotation("xyz", three("rotateAxis")), _rotation(order, three("rotate"))),
        *(_shift(rotate_pivot), _shift(three("rotatePivotTranslate")), _shift(three("translate"))),
        np.reshape(scene.value(node, "offsetParentMatrix", time), (4, 4)),
    ]
    return np.linalg.multi_dot(steps)


def world_matrix(scene: Scene, node: Node, time: float | None = None) -> np.ndarray:
    """Of a transform or shape."""
    matrix = np.eye(4)
    at: Node | None = node
    while at is not None:
        if at.type == "transform":
            matrix = matrix @ local_matrix(scene, at, time)
            if not scene.value(at, "inheritsTransform", time):
                break
        at = at.parent
    return matrix


def translation_of(scene: Scene, node: Node) -> np.ndarray:
    """World position, cm."""
    return world_matrix(scene, node)[3, :3]


def _shift(by: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[3, :3] = by
    return matrix


def _rotation(order: str, radians: np.ndarray) -> np.ndarray:
    """For row vectors: the first axis of the order turns first."""
    matrix = np.eye(4)
    for axis in order:
        index = "xyz".index(axis)
        c, s = np.cos(radians[index]), np.sin(radians[index])
        a, b = (index + 1) % 3, (index + 2) % 3
        turn = np.eye(4)
        turn[a, a] = turn[b, b] = c
        turn[a, b], turn[b, a] = s, -s
        matrix = matrix @ turn
    return matrix
