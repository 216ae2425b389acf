"""The lens: film back and, where it is known, focal length."""

from __future__ import annotations

from megasam_shared.errors import MegasamError
from megasam_shared.settings import FIELDS
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QWidget,
)

from megasam_maya.film_back_presets import FilmBackPreset, film_back_presets, user_table

_CUSTOM = "Custom width"
_DEFAULT_WIDTH = 36.0


class LensPanel(QGroupBox):
    """Film back preset and width in mm; focal length estimated, or known in mm or pixels.

    ``problem`` carries a MegasamError about the user's table of film backs.
    """

    problem = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Lens", parent)
        self.film_back = QComboBox()
        self.film_back.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.film_back.setMinimumContentsLength(12)
        self.film_back.setToolTip(f"More in {user_table()}")
        self.width_mm = _number(FIELDS["film_back_mm"].minimum, FIELDS["film_back_mm"].maximum)
        self.width_mm.setSuffix(" mm")
        self.width_mm.setToolTip(FIELDS["film_back_mm"].doc)
        self.width_mm.setAccessibleName("Film back width")
        self.mode = QComboBox()
        for title, key in (("Estimate", ""), ("Known, mm", "mm"), ("Known, px", "px")):
            self.mode.addItem(title, key)
        self.focal = _number(0.1, 1_000_000)
        self.focal.setAccessibleName("Focal length")
        self.refine = QCheckBox("Refine in the solve")
        self.refine.setToolTip(FIELDS["optimize_focal"].doc)
        self._lay_out()
        self.film_back.activated.connect(self._preset_chosen)
        self.width_mm.valueChanged.connect(self._width_changed)
        self.mode.currentIndexChanged.connect(self._mode_changed)
        self.focal.setValue(35.0)
        self.width_mm.setValue(_DEFAULT_WIDTH)
        self._mode_changed()

    def _lay_out(self) -> None:
        form = QFormLayout(self)
        focal = QHBoxLayout()
        focal.addWidget(self.mode)
        focal.addWidget(self.focal, 1)
        form.addRow("Film &back", self.film_back)
        form.addRow("&Width", self.width_mm)
        form.addRow("Focal lengt&h", focal)
        form.labelForField(focal).setBuddy(self.mode)
        form.addRow("", self.refine)

    def load_presets(self) -> None:
        """Read the tables of film backs; the user's may have changed."""
        try:
            presets = film_back_presets()
        except MegasamError as error:
            presets = []
            self.problem.emit(error)
        self.film_back.clear()
        self.film_back.addItem(_CUSTOM, None)
        for preset in presets:
            self.film_back.addItem(preset.name, preset)
            size = f"{preset.width_mm:g} x {preset.height_mm:g} mm"
            self.film_back.setItemData(
                self.film_back.count() - 1, size, Qt.ItemDataRole.ToolTipRole
            )
        self._show_preset_of_width()

    @property
    def film_back_mm(self) -> float:
        return self.width_mm.value()

    def settings(self) -> dict:
        """Values for SolveSettings."""
        known = self.mode.currentData()
        return {
            "focal_length_px": self.focal.value() if known == "px" else 0.0,
            "focal_mm": self.focal.value() if known == "mm" else 0.0,
            "film_back_mm": self.width_mm.value() if known == "mm" else 0.0,
            "optimize_focal": bool(known) and self.refine.isChecked(),
        }

    def values(self) -> dict:
        return {
            "film_back": self.film_back.currentText(),
            "film_back_mm": self.width_mm.value(),
            "focal_known": self.mode.currentData(),
            "focal": self.focal.value(),
            "optimize_focal": self.refine.isChecked(),
        }

    def set_values(self, values: dict) -> None:
        self.width_mm.setValue(values.get("film_back_mm", self.width_mm.value()))
        named = self.film_back.findText(str(values.get("film_back", "")))
        if named > 0 and self.film_back.itemData(named).width_mm == self.width_mm.value():
            self.film_back.setCurrentIndex(named)
        self.mode.setCurrentIndex(max(0, self.mode.findData(values.get("focal_known", ""))))
        self.focal.setValue(values.get("focal", self.focal.value()))
        self.refine.setChecked(bool(values.get("optimize_focal", False)))

    def _preset_chosen(self) -> None:
        preset = self.film_back.currentData()
        if isinstance(preset, FilmBackPreset):
            self.width_mm.setValue(preset.width_mm)

    def _width_changed(self) -> None:
        preset = self.film_back.currentData()
        if not isinstance(preset, FilmBackPreset) or preset.width_mm != self.width_mm.value():
            self._show_preset_of_width()

    def _show_preset_of_width(self) -> None:
        widths = [
            preset.width_mm if (preset := self.film_back.itemData(i)) is not None else None
            for i in range(self.film_back.count())
        ]
        width = self.width_mm.value()
        self.film_back.setCurrentIndex(widths.index(width) if width in widths else 0)

    def _mode_changed(self) -> None:
        known = self.mode.currentData()
        self.focal.setEnabled(bool(known))
        self.refine.setEnabled(bool(known))
        self.focal.setSuffix(f" {known}" if known else "")


def _number(minimum: float, maximum: float) -> QDoubleSpinBox:
    box = QDoubleSpinBox(decimals=2, minimum=minimum, maximum=maximum)
    box.setKeyboardTracking(False)
    return box
