"""The plate: which files, what was found in them, which frames to solve and where they land."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QWidget,
)

from megasam_maya.plate import Plate
from megasam_maya.session_events import PlateInspected
from megasam_maya.ui.path_field import PathField
from megasam_maya.ui.theme import colours_of, set_text_colour

_MOST = 99_999_999


class PlatePanel(QGroupBox):
    """Picker, read-out, frame range and frame mapping, masks.

    ``wants_inspection`` carries a path to look at; the answer goes to :meth:`show_inspected`.

    Args:
        in_scene: what frames are mapped to: ``Maya``, or ``scene`` without Maya.
        can_read_camera: offer to take the image plane of the selected camera.
    """

    wants_inspection = Signal(object)
    wants_camera_plate = Signal()
    changed = Signal()

    def __init__(self, in_scene: str, can_read_camera: bool, parent: QWidget | None = None) -> None:
        super().__init__("Plate", parent)
        self._in_scene = in_scene
        self.plate: Plate | None = None
        self.picker = PathField("plate", "Movie, folder or one frame")
        self.from_camera = QPushButton("From camera")
        self.from_camera.setToolTip("Take the image plane of the selected camera")
        self.from_camera.setVisible(can_read_camera)
        self.found = QLabel("No plate yet.", wordWrap=True)
        self.missing = QLabel(wordWrap=True)
        self.missing.hide()
        self.first = QSpinBox(maximum=_MOST, minimum=-_MOST, enabled=False)
        self.last = QSpinBox(maximum=_MOST, minimum=-_MOST, enabled=False)
        self.first.setAccessibleName("First frame to solve")
        self.last.setAccessibleName("Last frame to solve")
        self.all_frames = QPushButton("All", enabled=False)
        self.all_frames.setToolTip("Solve the whole plate")
        self.lands_on = QSpinBox(maximum=_MOST, minimum=-_MOST, enabled=False)
        self.lands_on.setToolTip(f"{in_scene} frame of the first solved frame")
        self.mapping = QLabel(wordWrap=True)
        self.masks = PathField("masks", "Optional: white is left out")
        self.masks_found = QLabel(wordWrap=True)
        self.masks_found.hide()
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        form = QFormLayout(self)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        found = QHBoxLayout()
        found.addWidget(self.found, 1)
        found.addWidget(self.from_camera, 0, Qt.AlignmentFlag.AlignTop)
        frames = QHBoxLayout()
        frames.addWidget(self.first, 1)
        frames.addWidget(QLabel("to"))
        frames.addWidget(self.last, 1)
        frames.addWidget(self.all_frames)
        lands = QHBoxLayout()
        lands.addWidget(self.lands_on)
        lands.addWidget(self.mapping, 1)
        form.addRow("&Plate", self.picker)
        form.addRow("", found)
        form.addRow("", self.missing)
        form.addRow("&Frames", frames)
        form.labelForField(frames).setBuddy(self.first)
        form.addRow("S&tarts at", lands)
        form.labelForField(lands).setBuddy(self.lands_on)
        form.addRow("Mas&ks", self.masks)
        form.addRow("", self.masks_found)
        form.setRowVisible(self.missing, False)
        form.setRowVisible(self.masks_found, False)
        self._form = form

    def _connect(self) -> None:
        self.picker.committed.connect(self._plate_changed)
        self.masks.committed.connect(self._masks_changed)
        self.from_camera.clicked.connect(self.wants_camera_plate)
        self.all_frames.clicked.connect(self._take_all_frames)
        self.first.valueChanged.connect(self._first_changed)
        self.last.valueChanged.connect(self._last_changed)
        self.lands_on.valueChanged.connect(self._show_mapping)

    def show_inspected(self, event: PlateInspected) -> None:
        """The answer to ``wants_inspection``; one for a path that is no longer wanted is ignored."""
        if event.path == self.picker.path:
            self._show_plate(event)
        if event.path == self.masks.path:
            text = event.plate.summary if event.plate is not None else str(event.error)
            colours = colours_of(self)
            set_text_colour(
                self.masks_found, colours.quiet if event.plate is not None else colours.failed
            )
            self._show_row(self.masks_found, text)

    def _show_plate(self, event: PlateInspected) -> None:
        is_new = self.plate is None or event.plate is None or self.plate.path != event.path
        self.plate = event.plate
        colours = colours_of(self)
        if event.plate is None:
            set_text_colour(self.found, colours.failed)
            self.found.setText(str(event.error))
            self._show_row(self.missing, "")
        else:
            set_text_colour(self.found, self.palette().color(self.foregroundRole()))
            self.found.setText(f"{event.plate.label}\n{event.plate.summary}")
            set_text_colour(self.missing, colours.check)
            self._show_row(self.missing, event.plate.missing_text)
        has_frames = event.plate is not None and event.plate.first is not None
        for widget in (self.first, self.last, self.all_frames):
            widget.setEnabled(has_frames)
        self.lands_on.setEnabled(event.plate is not None)
        if event.plate is not None and is_new:
            self._take_all_frames()
            self.lands_on.setValue(1001 if event.plate.is_movie else event.plate.first or 1)
        self._show_mapping()
        self.changed.emit()

    @property
    def frame_range(self) -> tuple[int | None, int | None]:
        """First and last frame for the settings; None where the plate's own end is meant."""
        plate = self.plate
        if plate is None or plate.first is None:
            return None, None
        first, last = self.first.value(), self.last.value()
        return (None if first == plate.first else first, None if last == plate.last else last)

    @property
    def mask_path(self) -> Path | None:
        return self.masks.path

    def _plate_changed(self) -> None:
        self.plate = None
        self._show_row(self.missing, "")
        set_text_colour(self.found, self.palette().color(self.foregroundRole()))
        path = self.picker.path
        self.found.setText("No plate yet." if path is None else "Looking\u2026")
        if path is not None:
            self.wants_inspection.emit(path)
        self.changed.emit()

    def _masks_changed(self) -> None:
        self._show_row(self.masks_found, "")
        if self.masks.path is not None:
            self.wants_inspection.emit(self.masks.path)
        self.changed.emit()

    def _take_all_frames(self) -> None:
        if self.plate is not None and self.plate.first is not None:
            for box, value in ((self.first, self.plate.first), (self.last, self.plate.last)):
                box.blockSignals(True)
                box.setRange(self.plate.first, self.plate.last)
                box.setValue(value)
                box.blockSignals(False)
            self._show_mapping()

    def _first_changed(self, value: int) -> None:
        if value > self.last.value():
            self.last.setValue(value)
        self._show_mapping()

    def _last_changed(self, value: int) -> None:
        if value < self.first.value():
            self.first.setValue(value)
        self._show_mapping()

    def _show_mapping(self) -> None:
        plate, start = self.plate, self.lands_on.value()
        if plate is None:
            self.mapping.setText("")
        elif plate.first is None:
            self.mapping.setText(f"plate 1 \u2192 {self._in_scene} {start}")
        else:
            first, last = self.first.value(), self.last.value()
            self.mapping.setText(
                f"plate {first}-{last} \u2192 {self._in_scene} {start}-{start + last - first}"
            )

    def _show_row(self, label: QLabel, text: str) -> None:
        label.setText(text)
        self._form.setRowVisible(label, bool(text))
