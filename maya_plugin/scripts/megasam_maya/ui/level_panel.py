"""Put a solve on the floor, straight and to scale, from what is selected in the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from megasam_shared.errors import MegasamError
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from megasam_maya.scene import levelling
from megasam_maya.scene.picked import picked_solve

if TYPE_CHECKING:
    from megasam_maya.host import MayaHost


class LevelPanel(QWidget):
    """Ground plane, origin, horizon, distance and bake down; each is one undo step in the scene.

    ``told`` carries a line for the artist, ``failed`` a MegasamError.
    """

    told = Signal(str)
    failed = Signal(object)

    def __init__(self, host: MayaHost, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._host = host
        self.ground = self._button(
            "Gro&und plane", "Three or more points on the floor are selected", self._ground
        )
        self.origin = self._button("Or&igin", "One point is selected", self._origin)
        self.horizon = self._button(
            "Hori&zon", "Take the roll out of the camera at the current frame", self._horizon
        )
        self.distance = QDoubleSpinBox(decimals=3, minimum=0.001, maximum=1e7, value=100.0)
        self.distance.setSuffix(" cm")
        self.distance.setAccessibleName("Distance of two points")
        self.scale = self._button(
            "Set &distance", "Two points are selected, this far apart in the set", self._scale
        )
        self.bake = self._button(
            "B&ake down", "Move the group's transform into the camera's keys", self._bake
        )
        self._lay_out()

    def _button(self, label: str, tip: str, do: Callable[[str], str]) -> QPushButton:
        button = QPushButton(label, toolTip=tip, autoDefault=False)
        button.clicked.connect(lambda: self._run(do))
        return button

    def _lay_out(self) -> None:
        hint = QLabel(
            "Select points of the solve, or vertices, then press a button. The solve's group "
            "moves; keys stay until it is baked down.",
            wordWrap=True,
        )
        hint.setTextFormat(Qt.TextFormat.PlainText)
        form = QFormLayout()
        form.addRow("From points on the floor", self.ground)
        form.addRow("From one point", self.origin)
        form.addRow("From the current frame", self.horizon)
        two = QHBoxLayout()
        two.addWidget(self.distance, 1)
        two.addWidget(self.scale)
        form.addRow("From two points", two)
        form.addRow("When it lies right", self.bake)
        layout = QVBoxLayout(self)
        layout.addWidget(hint)
        layout.addLayout(form)
        layout.addStretch(1)

    def _run(self, do: Callable[[str], str]) -> None:
        try:
            said = do(picked_solve(self._host))
        except MegasamError as error:
            self.failed.emit(error)
        else:
            self.told.emit(said)

    def _ground(self, camera: str) -> str:
        points = self._host.selected_positions()
        levelling.ground_plane(self._host, camera, points)
        return f"The plane through {len(points)} points is the floor."

    def _origin(self, camera: str) -> str:
        (point,) = self._points(1)
        levelling.set_origin(self._host, camera, point)
        return "The selected point is the origin."

    def _horizon(self, camera: str) -> str:
        frame = self._host.current_frame()
        levelling.level_horizon(self._host, camera, frame)
        return f"The camera does not roll at frame {frame:g}."

    def _scale(self, camera: str) -> str:
        first, second = self._points(2)
        levelling.set_distance(self._host, camera, first, second, self.distance.value())
        return f"The two points are {self.distance.value():g} cm apart."

    def _bake(self, camera: str) -> str:
        levelling.bake_down(self._host, camera)
        return "The group's transform is in the keys now."

    def _points(self, count: int) -> list[tuple[float, float, float]]:
        points = self._host.selected_positions()
        if len(points) != count:
            raise MegasamError(
                "wrong_selection",
                f"{len(points)} points are selected, not {count}.",
                "Select points of the solve, or vertices.",
            )
        return points
