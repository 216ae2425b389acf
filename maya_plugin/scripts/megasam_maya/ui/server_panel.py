"""Which server, and how it is: a dot, its version, GPUs and queue."""

from __future__ import annotations

from megasam_shared.protocol import DEFAULT_PORT, ServerStatus
from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QWidget

from megasam_maya.session_events import ConnectionState
from megasam_maya.ui.theme import colours_of

LOCAL = f"tcp://127.0.0.1:{DEFAULT_PORT}"
_MOST_RECENT = 8
_TEXTS = {
    "connecting": "Connecting\u2026",
    "connected": "Connected",
    "unreachable": "No answer",
    "lost": "Lost",
    "refused": "Refused",
}


class StatusDot(QWidget):
    """A coloured dot; the text beside it says the same for who does not tell colours apart."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.state = "connecting"
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:  # noqa: N802
        return QSize(14, 14)

    def set_state(self, state: str) -> None:
        self.state = state
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._colour())
        painter.drawEllipse(self.rect().adjusted(2, 2, -2, -2))
        painter.end()

    def _colour(self) -> QColor:
        colours = colours_of(self)
        return {"connected": colours.good, "connecting": colours.quiet}.get(
            self.state, colours.failed
        )


class ServerPanel(QWidget):
    """Address with recent servers, Connect, and the state of the connection.

    ``wants_connection`` carries the address.
    """

    wants_connection = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.address = QComboBox(editable=True)
        self.address.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.address.setMinimumContentsLength(22)
        self.address.setAccessibleName("Server address")
        self.address.setToolTip("For example tcp://gpu01:5599 or just gpu01")
        self.connect_button = QPushButton("Co&nnect")
        self.dot = StatusDot()
        self.state = QLabel("Not connected")
        self.details = QLabel()
        self.details.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        label = QLabel("S&erver")
        label.setBuddy(self.address)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(label)
        layout.addWidget(self.address)
        layout.addWidget(self.connect_button)
        layout.addWidget(self.dot)
        layout.addWidget(self.state)
        layout.addWidget(self.details, 1)
        self.set_recent([LOCAL])
        self.connect_button.clicked.connect(self._connect)
        self.address.lineEdit().returnPressed.connect(self._connect)
        self.address.activated.connect(self._connect)

    @property
    def recent(self) -> list[str]:
        return [self.address.itemText(i) for i in range(self.address.count())]

    def set_recent(self, addresses: list[str]) -> None:
        """Newest first; the first becomes the current one."""
        self.address.clear()
        self.address.addItems(addresses[:_MOST_RECENT] or [LOCAL])

    def show_state(self, event: ConnectionState) -> None:
        self.dot.set_state(event.state)
        self.state.setText(_TEXTS[event.state])
        if event.state != "connected":
            self.details.clear()
        else:
            self._remember(event.address)

    def show_status(self, status: ServerStatus) -> None:
        gpus = ", ".join(_gpu_text(gpu.name, gpu.used, gpu.total) for gpu in status.gpus)
        queue = f"{status.running} running, {status.queued} queued"
        parts = [f"v{status.version}", gpus or "no GPU", queue]
        if status.draining:
            parts.append("about to stop")
        self.details.setText(" \u00b7 ".join(parts))
        self.details.setToolTip("\n".join([*parts, f"workers: {status.workers}"]))

    def _connect(self) -> None:
        self.wants_connection.emit(self.address.currentText().strip())

    def _remember(self, address: str) -> None:
        others = [known for known in self.recent if known != address]
        self.set_recent([address, *others])


def _gpu_text(name: str, used: int | None, total: int | None) -> str:
    if used is None or total is None:
        return name
    return f"{name} {(total - used) / 1024:.0f} of {total / 1024:.0f} GB free"
