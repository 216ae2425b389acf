"""Apply without Maya: which scene files to write, and where."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QPushButton,
    QWidget,
)

from megasam_maya.scene_files import SCENE_FILES, SceneFile
from megasam_maya.ui.path_field import PathField


class FilesPanel(QGroupBox):
    """Formats and folder; ``wants_apply`` when the artist asks for the files."""

    wants_apply = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Apply", parent)
        self.boxes = {file.name: QCheckBox(file.label, checked=True) for file in SCENE_FILES}
        self.folder = PathField("folder for scene files", "Beside the results", folder=True)
        self.anyway = QCheckBox("Although the solve failed")
        self.apply = QPushButton("S&ave scene files")
        grid = QGridLayout()
        for index, box in enumerate(self.boxes.values()):
            grid.addWidget(box, index // 3, index % 3)
        form = QFormLayout(self)
        form.addRow("Formats", grid)
        form.addRow("Save in", self.folder)
        buttons = QHBoxLayout()
        buttons.addWidget(self.anyway)
        buttons.addStretch(1)
        buttons.addWidget(self.apply)
        form.addRow(buttons)
        self.apply.clicked.connect(self.wants_apply)
        self.anyway.toggled.connect(self._show_apply)
        self._usable: bool | None = None
        self.show_usable(None)

    def show_usable(self, usable: bool | None) -> None:
        """Whether there is a solve to apply: None for no; a failed one has to be insisted on."""
        self._usable = usable
        self.anyway.setChecked(False)
        self.anyway.setVisible(usable is False)
        self._show_apply()

    def _show_apply(self) -> None:
        self.apply.setEnabled(bool(self._usable) or self.anyway.isChecked())

    @property
    def chosen(self) -> list[SceneFile]:
        return [file for file in SCENE_FILES if self.boxes[file.name].isChecked()]

    @property
    def target(self) -> Path | None:
        return self.folder.path

    def values(self) -> dict:
        return {
            "formats": [file.name for file in self.chosen],
            "folder": str(self.folder.path or ""),
        }

    def set_values(self, values: dict) -> None:
        chosen = values.get("formats")
        if isinstance(chosen, list):
            for name, box in self.boxes.items():
                box.setChecked(name in chosen)
        self.folder.set_path(str(values.get("folder", "")) or None)
