"""The solves of this user: those of the history, and what the server says of them."""

from __future__ import annotations

import time

from megasam_shared.protocol import JobInfo
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from megasam_maya.job_history import JobRecord

_STATES = {
    "queued": "in the queue",
    "running": "running",
    "done": "solved, to be fetched",
    "fetched": "solved",
    "failed": "failed",
    "cancelled": "cancelled",
}


class JobsPanel(QWidget):
    """History, newest first. ``wants_job`` carries a JobRecord to show again."""

    wants_job = Signal(object)
    wants_folder = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.list = QTreeWidget(rootIsDecorated=False, uniformRowHeights=True)
        self.list.setHeaderLabels(["Plate", "State", "Started", "Server"])
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.list.setAccessibleName("Solves")
        header = self.list.header()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.open = QPushButton("&Open", enabled=False)
        self.open.setToolTip("Follow the job again, or show its result")
        self.load = QPushButton("&Load result folder\u2026")
        buttons = QHBoxLayout()
        buttons.addWidget(self.open)
        buttons.addWidget(self.load)
        buttons.addStretch(1)
        layout = QVBoxLayout(self)
        layout.addWidget(self.list, 1)
        layout.addLayout(buttons)
        self._server_states: dict[str, str] = {}
        self._records: list[JobRecord] = []
        self.open.clicked.connect(self._open)
        self.load.clicked.connect(self.wants_folder)
        self.list.itemActivated.connect(self._open)
        self.list.itemSelectionChanged.connect(
            lambda: self.open.setEnabled(bool(self.list.selectedItems()))
        )

    def show_records(self, records: list[JobRecord]) -> None:
        selected = self._selected()
        self._records = records
        self.list.clear()
        for record in records:
            state = record.state
            if state not in ("fetched", "failed", "cancelled"):
                state = self._server_states.get(record.job, state)
            text = _STATES.get(state, state)
            if record.verdict and state in ("done", "fetched"):
                text += f", {record.verdict}"
            when = time.strftime("%d %b %H:%M", time.localtime(record.created))
            item = QTreeWidgetItem([record.name, text, when, record.server])
            item.setData(0, Qt.ItemDataRole.UserRole, record)
            item.setToolTip(0, f"{record.plate}\n{record.folder}")
            self.list.addTopLevelItem(item)
            if selected is not None and record.job == selected.job:
                item.setSelected(True)

    def show_server_jobs(self, jobs: list[JobInfo]) -> None:
        """Newer states of jobs in the history."""
        self._server_states.update({job.job: job.state for job in jobs})
        self.show_records(self._records)

    def _selected(self) -> JobRecord | None:
        items = self.list.selectedItems()
        return items[0].data(0, Qt.ItemDataRole.UserRole) if items else None

    def _open(self, *_: object) -> None:
        record = self._selected()
        if record is not None:
            self.wants_job.emit(record)
