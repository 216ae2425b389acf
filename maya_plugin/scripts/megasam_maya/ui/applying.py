"""From a result on disk to the scene: a camera in Maya, or scene files without Maya."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from megasam_shared.errors import MegasamError
from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QMessageBox, QWidget

from megasam_maya.job_history import JobRecord
from megasam_maya.scene.apply import apply_shot
from megasam_maya.scene_files import copy_scene_files, targets_of
from megasam_maya.shot import read_shot
from megasam_maya.solve_quality import SolveQuality
from megasam_maya.ui.apply_panel import ApplyPanel, no_camera_selected
from megasam_maya.ui.files_panel import FilesPanel

_log = logging.getLogger(__name__)


class Applying(QObject):
    """The result that is shown, and what Apply does with it.

    ``told`` carries a line for the artist, ``failed`` a MegasamError.

    Args:
        host: :class:`megasam_maya.host.MayaHost`, or None without Maya.
        window: parent of the one question that is asked: whether to replace files.

    Attributes:
        panel: the widget with the options.
    """

    told = Signal(str)
    failed = Signal(object)

    def __init__(self, host: Any, window: QWidget) -> None:
        super().__init__(window)
        self._host, self._window = host, window
        self._folder: Path | None = None
        self._quality: SolveQuality | None = None
        self._record: JobRecord | None = None
        self.panel = FilesPanel() if host is None else ApplyPanel()
        self.panel.wants_apply.connect(self.apply)

    def show_result(self, folder: Path, quality: SolveQuality, record: JobRecord | None) -> None:
        """The result that Apply is about from now on."""
        self._folder, self._quality, self._record = folder, quality, record
        self.panel.show_usable(quality.usable)

    def values(self) -> dict:
        return self.panel.values()

    def set_values(self, values: dict) -> None:
        self.panel.set_values(values)

    @property
    def frame_offset(self) -> int:
        """Maya frame = plate frame + offset, as the dialog said when the job was submitted."""
        kept = dict(self._record.values or {}) if self._record is not None else {}
        lands_on = kept.get("lands_on")
        if self._quality is None or not isinstance(lands_on, int):
            return 0
        return lands_on - self._quality.frames[0]

    def apply(self) -> None:
        """Put the shown result into the scene, or write its files."""
        if self._folder is None:
            return
        try:
            if self._host is None:
                self._write_files()
            else:
                self._apply_in_maya()
        except MegasamError as error:
            self.failed.emit(error)
        except Exception as error:
            # Out of a slot it would end in a log that the artist does not read.
            _log.exception("Apply failed")
            said = f"Apply failed for a reason that nobody foresaw: {type(error).__name__}: {error}"
            self.failed.emit(MegasamError("unexpected_error", said, "Please report it."))

    def go_to_plate_frame(self, frame: int) -> None:
        if self._host is not None:
            self._host.go_to_frame(frame + self.frame_offset)

    def plate_of_selected_camera(self) -> Path:
        """The picture on the image plane of the selected camera.

        Raises:
            MegasamError: ``no_camera_selected`` or ``no_image_plane``.
        """
        camera = self._host.selected_camera()
        if camera is None:
            raise no_camera_selected()
        shape = self._host.shape(camera, "camera")
        for plane in self._host.image_planes(shape):
            name = self._host.get(f"{plane}.imageName")
            if name:
                return Path(name)
        raise MegasamError(
            "no_image_plane",
            f"{camera.rsplit('|', 1)[-1]} has no image plane with a picture.",
            "Choose the plate by its file instead.",
        )

    def _apply_in_maya(self) -> None:
        assert isinstance(self.panel, ApplyPanel) and self._folder is not None
        camera = None
        if self.panel.on_selected_camera:
            camera = self._host.selected_camera()
            if camera is None:
                raise no_camera_selected()
        record = self._record
        film_back = dict(record.values or {}).get("film_back_mm", 0.0) if record else 0.0
        options = self.panel.options(camera, self.frame_offset, float(film_back))
        # A plate that is gone must not keep a camera out of the scene.
        plate = Path(record.plate) if record is not None and options.image_plane else None
        shot = read_shot(self._folder, plate, record.job if record is not None else "")
        applied = apply_shot(shot, options, self._host)
        lines = [f"{'Updated' if applied.replaced else 'Made'} {applied.camera_path}."]
        lines += [f"{notice.message} {notice.hint}".strip() for notice in applied.notices]
        self.told.emit("\n".join(lines))

    def _write_files(self) -> None:
        assert isinstance(self.panel, FilesPanel) and self._folder is not None
        target = self.panel.target or self._folder.parent
        name = self._folder.name
        there = [p for p in targets_of(self.panel.chosen, target, name) if p.exists()]
        if there and not self._may_replace(there):
            return
        insist = self.panel.anyway.isChecked()
        written = copy_scene_files(self.panel.chosen, self._folder, target, name, insist)
        self.told.emit(f"Wrote {', '.join(path.name for path in written)} in {target}.")

    def _may_replace(self, there: list[Path]) -> bool:
        names = ", ".join(path.name for path in there)
        answer = QMessageBox.question(
            self._window, "Replace files?", f"{names}\nin {there[0].parent} will be replaced."
        )
        return answer == QMessageBox.StandardButton.Yes
