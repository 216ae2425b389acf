"""Apply in Maya: which camera, at what scale, with what around it."""

from __future__ import annotations

from megasam_shared.errors import MegasamError
from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QWidget,
)

from megasam_maya.scene.options import MOST_LOCATORS, ApplyOptions

_SWITCHES = (
    ("image_plane", "Image plane", "Show the plate behind the scene"),
    ("depth_preview", "Depth preview", "A second image plane with the depth, off at first"),
    ("lock", "Lock camera", "Lock translate, rotate and scale of the camera"),
    ("playback_range", "Playback range", "Set the time slider to the shot"),
)


class ApplyPanel(QGroupBox):
    """Options of Apply; ``wants_apply`` when the artist presses the button."""

    wants_apply = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Apply", parent)
        defaults = ApplyOptions()
        self.camera = _choice(("New camera", "new"), ("Selected camera", "selected"))
        self.focal = _choice(("Focal animated", "animated"), ("Focal constant", "constant"))
        self.scale = QDoubleSpinBox(decimals=4, minimum=0.0001, maximum=1e6)
        self.scale.setValue(defaults.scene_scale)
        self.scale.setToolTip("1 makes a metre of the solve 100 cm in the scene")
        self.points = _choice(
            ("Locators", "locators"), ("USD points", "usd"), ("No points", "none")
        )
        self.max_points = QSpinBox(maximum=MOST_LOCATORS, value=defaults.max_points)
        self.max_points.setToolTip("Most locators")
        self.max_points.setAccessibleName("Most locators")
        self.switches: dict[str, QCheckBox] = {}
        for name, label, tip in _SWITCHES:
            self.switches[name] = QCheckBox(label, checked=getattr(defaults, name), toolTip=tip)
        self.anyway = QCheckBox("Although the solve failed")
        self.apply = QPushButton("&Apply")
        self.apply.setToolTip("One undo step; nothing in the scene is touched before")
        self._lay_out()
        self.points.currentIndexChanged.connect(
            lambda: self.max_points.setEnabled(self.points.currentData() == "locators")
        )
        self.apply.clicked.connect(self.wants_apply)
        self.anyway.toggled.connect(self._show_apply)
        self._usable: bool | None = None
        self.show_usable(None)

    def _lay_out(self) -> None:
        form = QFormLayout(self)
        camera = QHBoxLayout()
        camera.addWidget(self.camera, 1)
        camera.addWidget(self.focal, 1)
        form.addRow("Ca&mera", camera)
        form.labelForField(camera).setBuddy(self.camera)
        scale = QHBoxLayout()
        scale.addWidget(self.scale, 1)
        scale.addWidget(QLabel("Points"))
        scale.addWidget(self.points, 1)
        scale.addWidget(self.max_points)
        form.addRow("Scene scale", scale)
        form.labelForField(scale).setBuddy(self.scale)
        grid = QGridLayout()
        for index, box in enumerate(self.switches.values()):
            grid.addWidget(box, index // 2, index % 2)
        form.addRow(grid)
        buttons = QHBoxLayout()
        buttons.addWidget(self.anyway)
        buttons.addStretch(1)
        buttons.addWidget(self.apply)
        form.addRow(buttons)

    def show_usable(self, usable: bool | None) -> None:
        """Whether there is a solve to apply: None for no; a failed one has to be insisted on."""
        self._usable = usable
        self.anyway.setChecked(False)
        self.anyway.setVisible(usable is False)
        self._show_apply()

    def _show_apply(self) -> None:
        self.apply.setEnabled(bool(self._usable) or self.anyway.isChecked())

    @property
    def on_selected_camera(self) -> bool:
        return self.camera.currentData() == "selected"

    def options(self, camera: str | None, frame_offset: int, film_back_mm: float) -> ApplyOptions:
        """What is chosen.

        Raises:
            MegasamError: ``apply_option_invalid``.
        """
        return ApplyOptions(
            camera=camera,
            scene_scale=self.scale.value(),
            frame_offset=frame_offset,
            film_back_mm=film_back_mm,
            focal=self.focal.currentData(),
            points=self.points.currentData(),
            max_points=self.max_points.value(),
            insist=self.anyway.isChecked(),
            **{name: box.isChecked() for name, box in self.switches.items()},
        )

    def values(self) -> dict:
        return {
            "focal": self.focal.currentData(),
            "scale": self.scale.value(),
            "points": self.points.currentData(),
            "max_points": self.max_points.value(),
            **{name: box.isChecked() for name, box in self.switches.items()},
        }

    def set_values(self, values: dict) -> None:
        for combo, name in ((self.focal, "focal"), (self.points, "points")):
            index = combo.findData(values.get(name))
            if index >= 0:
                combo.setCurrentIndex(index)
        self.scale.setValue(values.get("scale", self.scale.value()))
        self.max_points.setValue(values.get("max_points", self.max_points.value()))
        for name, box in self.switches.items():
            box.setChecked(bool(values.get(name, box.isChecked())))


def no_camera_selected() -> MegasamError:
    return MegasamError("no_camera_selected", "No camera is selected.", "Select one in the scene.")


def _choice(*entries: tuple[str, str]) -> QComboBox:
    combo = QComboBox()
    for title, key in entries:
        combo.addItem(title, key)
    return combo
