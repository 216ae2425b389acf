"""The mouse wheel scrolls the panel and leaves the values it passes over alone."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtWidgets import QAbstractSpinBox, QComboBox, QWidget


class WheelGuard(QObject):
    """Keeps the wheel from spin boxes and combo boxes below ``panel`` that have no focus."""

    def __init__(self, panel: QWidget) -> None:
        super().__init__(panel)
        for kind in (QAbstractSpinBox, QComboBox):
            for editor in panel.findChildren(kind):
                editor.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                editor.installEventFilter(self)

    def eventFilter(self, editor: QObject, event: QEvent) -> bool:  # noqa: N802
        if event.type() == QEvent.Type.Wheel and not editor.hasFocus():
            event.ignore()  # then the panel gets it
            return True
        return False
