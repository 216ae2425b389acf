"""What went wrong and what to do about it, in the window instead of a box in front of it."""

from __future__ import annotations

from collections.abc import Callable

from megasam_shared.errors import MegasamError
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QWidget

from megasam_maya.ui.theme import colours_of, set_text_colour


class MessageBar(QFrame):
    """One message with at most one button; hidden while there is nothing to say."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.text = QLabel(wordWrap=True)
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.action = QPushButton()
        self.dismiss = QPushButton("Dismiss")
        self._do: Callable[[], None] | None = None
        layout = QHBoxLayout(self)
        layout.setContentsMargins(8, 4, 4, 4)
        layout.addWidget(self.text, 1)
        layout.addWidget(self.action)
        layout.addWidget(self.dismiss)
        self.action.clicked.connect(self._act)
        self.dismiss.clicked.connect(self.hide)
        self.hide()

    def show_error(
        self, error: MegasamError, button: str = "", do: Callable[[], None] | None = None
    ) -> None:
        self._show(str(error), colours_of(self).failed, button, do)

    def show_text(self, text: str, button: str = "", do: Callable[[], None] | None = None) -> None:
        self._show(text, colours_of(self).check, button, do)

    def _show(self, text: str, colour, button: str, do: Callable[[], None] | None) -> None:
        self.text.setText(text)
        set_text_colour(self.text, colour)
        self.action.setText(button)
        self.action.setVisible(bool(button))
        self._do = do
        self.show()

    def _act(self) -> None:
        self.hide()
        if self._do is not None:
            self._do()
