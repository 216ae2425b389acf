"""``maya.api`` of the stand-in: internal units, and nothing it does is in the undo queue."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.fake_maya.scene import CM_PER_UNIT, Node, Scene

_SECONDS, _FRAMES = 1, 8


def api_modules(scene: Scene) -> tuple[SimpleNamespace, SimpleNamespace]:
    """(OpenMaya, OpenMayaAnim)."""

    class MTime:
        kSeconds = _SECONDS  # noqa: N815

        def __init__(self, value: float, unit: int) -> None:
            self.frames = value * scene.fps if unit == _SECONDS else value

        @staticmethod
        def uiUnit() -> int:  # noqa: N802
            return _FRAMES

        def asUnits(self, unit: int) -> float:  # noqa: N802
            return self.frames / scene.fps if unit == _SECONDS else self.frames

    class MTimeArray(list):
        def __init__(self, times: list[MTime]) -> None:
            if not all(isinstance(time, MTime) for time in times):
                raise ValueError("MTimeArray takes MTime")
            super().__init__(times)

    class MDoubleArray(list):
        def __init__(self, values: list[float]) -> None:
            if not all(isinstance(value, float) for value in values):
                raise ValueError("MDoubleArray takes floats")
            super().__init__(values)

    class MDistance:
        @staticmethod
        def internalToUI(centimetres: float) -> float:  # noqa: N802
            return centimetres / CM_PER_UNIT[scene.linear]

    class MSelectionList:
        def __init__(self) -> None:
            self._nodes: list[Node] = []

        def add(self, name: str) -> MSelectionList:
            self._nodes.append(scene.node(name))
            return self

        def getDependNode(self, index: int) -> Node:  # noqa: N802
            return self._nodes[index]

    class MFnAnimCurve:
        kTangentLinear = 2  # noqa: N815

        def __init__(self, node: Any) -> None:
            if not isinstance(node, Node) or not node.type.startswith("animCurve"):
                raise RuntimeError("(kInvalidParameter): Object is incompatible with this method")
            self._curve = node

        def addKeys(  # noqa: N802
            self,
            times: MTimeArray,
            values: MDoubleArray,
            tangentInType: int = 0,  # noqa: N803
            tangentOutType: int = 0,  # noqa: N803
            keepExistingKeys: bool = False,  # noqa: N803
        ) -> None:
            if not isinstance(times, MTimeArray) or not isinstance(values, MDoubleArray):
                raise TypeError("addKeys takes an MTimeArray and an MDoubleArray")
            if len(times) != len(values):
                raise ValueError("as many times as values")
            if not keepExistingKeys:
                self._curve.keys.clear()
            self._curve.keys.update(
                {time.frames: value for time, value in zip(times, values, strict=True)}
            )
            is_linear = tangentInType == tangentOutType == self.kTangentLinear
            self._curve.tangents = "linear" if is_linear else "global"

    return (
        SimpleNamespace(
            MTime=MTime,
            MTimeArray=MTimeArray,
            MDoubleArray=MDoubleArray,
            MDistance=MDistance,
            MSelectionList=MSelectionList,
        ),
        SimpleNamespace(MFnAnimCurve=MFnAnimCurve),
    )
