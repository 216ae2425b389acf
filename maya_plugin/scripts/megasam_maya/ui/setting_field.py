"""One setting of a solve as a widget, made from its line in the table of settings."""

from __future__ import annotations

from typing import Any

from megasam_shared.field_spec import FieldSpec
from megasam_shared.settings import PRESETS
from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QToolButton,
    QWidget,
)

_QT_INT = 2**31 - 1


class SteppedSpinBox(QSpinBox):
    """A spin box that snaps what is typed to multiples of its step."""

    def valueFromText(self, text: str) -> int:  # noqa: N802
        value = super().valueFromText(text)
        return round(value / self.singleStep()) * self.singleStep()


class SettingField(QWidget):
    """Label, editor and tool tip of one setting.

    A setting that follows the preset shows the preset's value; once edited it keeps its own, is
    marked, and a button gives it back to the preset.
    """

    changed = Signal()

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spec = spec
        self.follows_preset = bool(spec.none_means)
        self._preset_value: Any = spec.default
        self._overridden = False
        self.label = QLabel(spec.label)
        self.editor = self._make_editor()
        self.reset = QToolButton(text="\u21ba", autoRaise=True, toolTip="Back to the preset")
        self.reset.setAccessibleName(f"{spec.label}: back to the preset")
        self.label.setBuddy(self.editor)
        self.editor.setAccessibleName(spec.label)
        tip = spec.doc if spec.kind in ("bool", "choice") else f"{spec.doc}\n{spec.allowed}"
        for widget in (self.editor, self.label):
            widget.setToolTip(tip)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.editor, 1)
        layout.addWidget(self.reset)
        policy = self.reset.sizePolicy()
        policy.setRetainSizeWhenHidden(self.follows_preset)
        self.reset.setSizePolicy(policy)
        self.reset.hide()
        self.reset.clicked.connect(self.follow_preset)

    @property
    def value(self) -> Any:
        """The setting; None while it follows the preset."""
        if self.follows_preset and not self._overridden:
            return None
        return self._read()

    @value.setter
    def value(self, value: Any) -> None:
        if value is None:
            self.follow_preset()
            return
        self._write(value)
        self._edited()

    def set_preset(self, preset: str) -> None:
        """Show what the preset says, unless the artist has said otherwise."""
        if self.spec.name in PRESETS[preset].values:
            self._preset_value = PRESETS[preset].values[self.spec.name]
            if not self._overridden:
                self._write(self._preset_value)

    def follow_preset(self) -> None:
        self._write(self._preset_value)
        self._mark(False)
        self.changed.emit()

    def _edited(self) -> None:
        self._mark(self.follows_preset)
        self.changed.emit()

    def _mark(self, overridden: bool) -> None:
        self._overridden = overridden
        self.reset.setVisible(overridden)
        font = self.label.font()
        font.setBold(overridden)
        self.label.setFont(font)

    def _make_editor(self) -> QWidget:
        spec = self.spec
        if spec.kind == "choice":
            editor = QComboBox()
            for choice in spec.choices:
                editor.addItem(_title(spec.name, choice), choice)
            editor.activated.connect(self._edited)
        elif spec.kind == "bool":
            editor = QCheckBox()
            editor.clicked.connect(self._edited)
        elif spec.kind == "text":
            editor = QLineEdit()
            editor.setPlaceholderText("default folder" if not spec.default else "")
            editor.textEdited.connect(self._edited)
        elif spec.kind == "int":
            editor = SteppedSpinBox()
            editor.setRange(
                0 if spec.zero_means else max(int(spec.minimum), -_QT_INT),
                min(int(spec.maximum), _QT_INT),
            )
            editor.setSingleStep(spec.step or 1)
            self._finish_number(editor)
        else:
            editor = QDoubleSpinBox(decimals=2)
            editor.setRange(0.0 if spec.zero_means else spec.minimum, spec.maximum)
            editor.setSingleStep(0.05 if spec.maximum <= 1 else 1.0)
            self._finish_number(editor)
        if not self.follows_preset:
            self._write_to(editor, spec.default)
        return editor

    def _finish_number(self, editor: QSpinBox | QDoubleSpinBox) -> None:
        if self.spec.unit:
            editor.setSuffix(f" {self.spec.unit}")
        if self.spec.zero_means:
            editor.setSpecialValueText(self.spec.zero_means)
        editor.setKeyboardTracking(False)
        editor.valueChanged.connect(self._edited)

    def _read(self) -> Any:
        editor = self.editor
        if isinstance(editor, QComboBox):
            return editor.currentData()
        if isinstance(editor, QCheckBox):
            return editor.isChecked()
        if isinstance(editor, QLineEdit):
            return editor.text().strip()
        return editor.value()

    def _write(self, value: Any) -> None:
        self._write_to(self.editor, value)

    @staticmethod
    def _write_to(editor: QWidget, value: Any) -> None:
        before = editor.blockSignals(True)
        if isinstance(editor, QComboBox):
            editor.setCurrentIndex(max(0, editor.findData(value)))
        elif isinstance(editor, QCheckBox):
            editor.setChecked(bool(value))
        elif isinstance(editor, QLineEdit):
            editor.setText(str(value))
        else:
            editor.setValue(value)
        editor.blockSignals(before)


_TITLES = {
    "maya": "Maya, Y-up",
    "blender": "Blender, Z-up",
    "opencv": "OpenCV",
    "auto": "Automatic",
    "megasam": "MegaSAM (networks)",
    "classical": "Classical (CPU)",
    "lower": "Lower it and say so",
    "fail": "Stop with an error",
}


def _title(name: str, choice: str) -> str:
    """What the artist reads for a choice."""
    if name == "quality_preset":
        preset = PRESETS[choice]
        return f"{preset.title} ({preset.vram_text})"
    return _TITLES.get(choice, choice.capitalize())
