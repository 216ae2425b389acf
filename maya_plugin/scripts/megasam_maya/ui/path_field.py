"""A path to type, drop or browse for."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget


class PathField(QWidget):
    """One path. ``committed`` is emitted when the artist has finished it: Enter, browse or drop."""

    committed = Signal()

    def __init__(
        self,
        name: str,
        placeholder: str,
        *,
        folder: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._name, self._folder = name, folder
        self._last = ""
        self.edit = QLineEdit(placeholderText=placeholder, clearButtonEnabled=True)
        self.edit.setAccessibleName(name)
        # A file that is dropped on it is for the field: by itself it would take the URL as text.
        self.edit.setAcceptDrops(False)
        self.browse = QPushButton("Browse\u2026")
        self.browse.setAccessibleName(f"Browse for {name}")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.edit, 1)
        layout.addWidget(self.browse)
        self.setAcceptDrops(True)
        self.setFocusProxy(self.edit)
        # Else the letter of a label that it is the buddy of does nothing.
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.edit.editingFinished.connect(self._commit)
        self.browse.clicked.connect(self._browse)

    @property
    def path(self) -> Path | None:
        text = self.edit.text().strip().strip('"')
        return Path(text) if text else None

    def set_path(self, path: Path | str | None) -> None:
        """Set it as if the artist had typed it."""
        self.edit.setText("" if path is None else str(path))
        self._commit()

    def _commit(self) -> None:
        if self.edit.text() != self._last:
            self._last = self.edit.text()
            self.committed.emit()

    def _browse(self) -> None:
        start = str(self.path or "")
        if self._folder:
            chosen = QFileDialog.getExistingDirectory(self, self._name, start)
        else:
            chosen, _ = QFileDialog.getOpenFileName(self, self._name, start)
        if chosen:
            self.set_path(chosen)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802
        files = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if files:
            self.set_path(files[0])
            event.acceptProposedAction()
