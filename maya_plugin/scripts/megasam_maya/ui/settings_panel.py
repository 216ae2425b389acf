"""The settings of a solve besides plate and lens, made from the table of settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.settings import FIELDS
from PySide6.QtWidgets import QFormLayout, QGroupBox, QVBoxLayout, QWidget

from megasam_maya.ui.collapsible import Collapsible
from megasam_maya.ui.setting_field import SettingField

MAIN = ("quality_preset", "coordinate_system")
ADVANCED = (
    "depth_chunk_size",
    "flow_chunk_size",
    "max_keyframes",
    "tracking_resolution",
    "run_cvd",
    "cvd_resolution",
    "cvd_iterations",
    "model_path",
)
MACHINE = ("engine", "fallback_policy", "commercial_only", "max_frames", "metric_depth_every")


class SettingsPanel(QGroupBox):
    """Preset and coordinate system; the rest collapsed under Advanced and Engine."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Solve", parent)
        self.fields = {name: SettingField(FIELDS[name]) for name in (*MAIN, *ADVANCED, *MACHINE)}
        self.advanced = Collapsible("Advanced", self._form(ADVANCED))
        self.machine = Collapsible("Engine and limits", self._form(MACHINE))
        layout = QVBoxLayout(self)
        main = self._form(MAIN)
        layout.addWidget(main)
        layout.addWidget(self.advanced)
        layout.addWidget(self.machine)
        self.fields["quality_preset"].changed.connect(self._preset_changed)
        self._preset_changed()

    def _form(self, names: Sequence[str]) -> QWidget:
        widget = QWidget()
        form = QFormLayout(widget)
        form.setContentsMargins(0, 0, 0, 0)
        for name in names:
            form.addRow(self.fields[name].label, self.fields[name])
        return widget

    def settings(self) -> dict[str, Any]:
        """Values for SolveSettings; None where the preset decides."""
        return {name: field.value for name, field in self.fields.items()}

    def set_values(self, values: dict[str, Any]) -> None:
        """Values of an earlier :meth:`settings`; what no longer fits is left as it is."""
        for name, field in self.fields.items():
            value = values.get(name)
            if value is not None and _fits(name, value):
                field.value = value

    def _preset_changed(self) -> None:
        preset = self.fields["quality_preset"].value
        for field in self.fields.values():
            field.set_preset(preset)


def _fits(name: str, value: Any) -> bool:
    try:
        FIELDS[name].check(value)
    except MegasamError:
        return False
    return True
