"""The dialog: plate, lens and settings on the left; the solve, its quality and all jobs on the right.

It knows no Maya. ``host`` is the object through which the scene is read and written; without one
(the standalone window) Apply writes scene files.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.server_keys import full_address
from megasam_shared.settings import SolveSettings
from PySide6.QtCore import QSize, Qt, QTimer
from PySide6.QtGui import QCloseEvent, QHideEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QSplitter,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from megasam_maya.job_history import JobHistory, JobRecord
from megasam_maya.result_place import next_version
from megasam_maya.session import Session
from megasam_maya.session_events import (
    Cancelling,
    ConnectionState,
    Fetching,
    JobMoved,
    JobProgress,
    JobsListed,
    PlateInspected,
    ResultRead,
    ServerNotice,
    SolveEnded,
    SolveRequest,
    StatusChanged,
    Uploading,
)
from megasam_maya.ui.applying import Applying
from megasam_maya.ui.jobs_panel import JobsPanel
from megasam_maya.ui.lens_panel import LensPanel
from megasam_maya.ui.level_panel import LevelPanel
from megasam_maya.ui.message_bar import MessageBar
from megasam_maya.ui.path_field import PathField
from megasam_maya.ui.plate_panel import PlatePanel
from megasam_maya.ui.progress_panel import ProgressPanel
from megasam_maya.ui.result_panel import ResultPanel
from megasam_maya.ui.saved_values import SavedValues
from megasam_maya.ui.server_panel import ServerPanel
from megasam_maya.ui.settings_panel import SettingsPanel
from megasam_maya.ui.wheel_guard import WheelGuard

_DRAIN_MS = 50
_UNFINISHED = ("queued", "running", "done")


class SolveDialog(QWidget):
    """The whole dialog as one widget, to be docked or shown as a window.

    Args:
        host: see :class:`megasam_maya.ui.applying.Applying`; None without Maya.
        history, saved: files shared with other dialogs of this user; by default in the config
            folder.
        server: address to connect to instead of the last one.
        hash_cache: file that remembers hashes of plates.
    """

    def __init__(
        self,
        host: Any = None,
        *,
        history: JobHistory | None = None,
        saved: SavedValues | None = None,
        server: str = "",
        hash_cache: Path | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("megasamDialog")
        self.setWindowTitle("MegaSAM camera solve")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._host = host
        self._history = history or JobHistory()
        self._saved = saved or SavedValues()
        self.server = ServerPanel()
        self.plate = PlatePanel("scene" if host is None else "Maya", host is not None)
        self.lens = LensPanel()
        self.settings = SettingsPanel()
        self.results_in = PathField("folder for results", "Beside the plate", folder=True)
        self.progress = ProgressPanel()
        self.result = ResultPanel()
        self.jobs = JobsPanel()
        self.message = MessageBar()
        self.applying = Applying(host, self)
        self.level = LevelPanel(host) if host is not None else None
        self.solve_button = QPushButton("&Solve", default=True)
        self.cancel_button = QPushButton("&Cancel", enabled=False)
        self.tabs = QTabWidget(documentMode=True)
        self._record: JobRecord | None = None
        self._busy = False
        self._address = ""
        self._lay_out()
        self._session = Session(
            self._history, "MegaSAM for Maya" if host else "megasam window", hash_cache
        )
        # A dock deletes what it holds without closing it.
        self.destroyed.connect(self._session.close)
        self._connect_signals()
        self._load_values()
        self._timer = QTimer(self, interval=_DRAIN_MS)
        self._timer.timeout.connect(self._drain)
        self._timer.start()
        self.plate.picker.setFocus()
        self.jobs.show_records(self._history.records())
        self.connect_to(server or self.server.recent[0])
        self._resume(any_server=not server)

    @property
    def session(self) -> Session:
        return self._session

    def sizeHint(self) -> QSize:  # noqa: N802
        return QSize(900, 700)

    # --- layout

    def _lay_out(self) -> None:
        inputs = QWidget()
        column = QVBoxLayout(inputs)
        column.setContentsMargins(0, 0, 6, 0)
        for panel in (self.plate, self.lens, self.settings):
            column.addWidget(panel)
        place = QFormLayout()
        place.addRow("&Results in", self.results_in)
        column.addLayout(place)
        column.addStretch(1)
        WheelGuard(inputs)
        left = QScrollArea(widgetResizable=True)
        left.setFrameShape(QFrame.Shape.NoFrame)
        left.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        left.setWidget(inputs)
        # Wide enough that nothing is cut when the scroll bar comes.
        bar = left.verticalScrollBar().sizeHint().width()
        left.setMinimumWidth(inputs.minimumSizeHint().width() + bar)
        left.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._quality = QWidget()
        right = QVBoxLayout(self._quality)
        right.addWidget(self.result, 1)
        right.addWidget(self.applying.panel)
        self.tabs.addTab(self.progress, "Pro&gress")
        self.tabs.addTab(self._quality, "&Quality")
        if self.level is not None:
            self.tabs.addTab(self.level, "Le&vel")
        self.tabs.addTab(self.jobs, "&Jobs")
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setChildrenCollapsible(False)
        splitter.addWidget(left)
        splitter.addWidget(self.tabs)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([left.minimumWidth(), 900 - left.minimumWidth()])
        buttons = QHBoxLayout()
        buttons.addStretch(1)
        buttons.addWidget(self.cancel_button)
        buttons.addWidget(self.solve_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addWidget(self.server)
        layout.addWidget(self.message)
        layout.addWidget(splitter, 1)
        layout.addLayout(buttons)

    def _connect_signals(self) -> None:
        self.server.wants_connection.connect(self.connect_to)
        self.plate.wants_inspection.connect(self._session.inspect_plate)
        self.plate.wants_camera_plate.connect(self._take_camera_plate)
        self.plate.changed.connect(self._show_buttons)
        self.lens.problem.connect(self.message.show_error)
        self.lens.load_presets()
        self.result.frame_chosen.connect(self.applying.go_to_plate_frame)
        self.jobs.wants_job.connect(self.open_job)
        self.jobs.wants_folder.connect(self._choose_folder)
        self.applying.failed.connect(self.message.show_error)
        self.applying.told.connect(self.message.show_text)
        if self.level is not None:
            self.level.failed.connect(self.message.show_error)
            self.level.told.connect(self.message.show_text)
        self.solve_button.clicked.connect(self.solve)
        self.cancel_button.clicked.connect(self.cancel)
        QShortcut(QKeySequence("Ctrl+Return"), self, self.solve_button.click)
        # Escape is for what has the focus (a list that is open) before it is for the solve.
        QShortcut(QKeySequence("Ctrl+."), self, self.cancel_button.click)

    # --- values that stay

    def _load_values(self) -> None:
        values = self._saved.load()
        servers = values.get("servers")
        if isinstance(servers, list):
            self.server.set_recent([str(address) for address in servers])
        for name, set_values in self._keepers().items():
            kept = values.get(name)
            if isinstance(kept, dict):
                try:
                    set_values[1](kept)
                except (TypeError, ValueError):
                    continue  # a file of another version: the defaults stay
        self.results_in.set_path(str(values.get("results_in", "")) or None)
        self._show_buttons()

    def _keepers(self) -> dict:
        return {
            "lens": (self.lens.values, self.lens.set_values),
            "settings": (self.settings.settings, self.settings.set_values),
            "apply": (self.applying.values, self.applying.set_values),
        }

    def _save_values(self) -> None:
        self._saved.save(
            {name: values() for name, (values, _) in self._keepers().items()}
            | {
                "servers": self.server.recent,
                "results_in": str(self.results_in.path or ""),
            }
        )

    # --- what the artist does

    def connect_to(self, address: str) -> None:
        with contextlib.suppress(MegasamError):  # the session tells what is wrong with it
            address = full_address(address)
        self._address = address
        self.server.address.setEditText(address)
        self._session.connect(address)

    def solve(self) -> None:
        """Start a solve of the plate with the settings as they stand."""
        plate = self.plate.plate
        if plate is None or self._busy:
            return
        try:
            first, last = self.plate.frame_range
            settings = SolveSettings(
                first_frame=first,
                last_frame=last,
                **self.lens.settings(),
                **self.settings.settings(),
            )
            taken = [record.folder for record in self._history.records()]
            parent = self.results_in.path or plate.folder
            folder = next_version(parent, plate.name, taken)
        except MegasamError as error:
            self.message.show_error(error)
            return
        values = {"lands_on": self.plate.lands_on.value(), "film_back_mm": self.lens.film_back_mm}
        request = SolveRequest(
            plate.path, self.plate.mask_path, settings, plate.name, folder, values
        )
        self._save_values()
        self._begin(f"Sending {plate.label}\u2026")
        self._session.solve(request)

    def cancel(self) -> None:
        if self._busy:
            self._session.cancel()

    def open_job(self, record: JobRecord) -> None:
        """Follow a job of the history again, or show its result."""
        if self._busy:
            self.message.show_text("A solve is running here. Cancel it, or wait for its end.")
            return
        if record.state != "fetched" and record.server != self._address:
            self.connect_to(record.server)
        self._record = record
        self._begin(f"Looking for {record.name}\u2026")
        self._session.attach(record)

    def load_folder(self, folder: Path) -> None:
        """Show the result of a solve that lies in ``folder``."""
        self._record = next((r for r in self._history.records() if Path(r.folder) == folder), None)
        self._session.read_result(folder)

    def _choose_folder(self) -> None:
        start = str(self.results_in.path or "")
        folder = QFileDialog.getExistingDirectory(self, "Result of a solve", start)
        if folder:
            self.load_folder(Path(folder))

    def _take_camera_plate(self) -> None:
        try:
            self.plate.picker.set_path(self.applying.plate_of_selected_camera())
        except MegasamError as error:
            self.message.show_error(error)

    def _resume(self, any_server: bool) -> None:
        """A job that was running when the last dialog went away is shown again."""
        for record in self._history.records():
            if record.state in _UNFINISHED and (any_server or record.server == self._address):
                self.open_job(record)
                return

    # --- what the session tells

    def _drain(self) -> None:
        for event in self._session.drain():
            self._handlers[type(event)](self, event)

    def _connection(self, event: ConnectionState) -> None:
        self.server.show_state(event)
        if event.state == "connected":
            self._address = event.address
            self.message.hide()
        elif event.error is not None:
            again = "Reconnect" if event.state == "lost" else "Try again"
            self.message.show_error(event.error, again, self._reconnect)

    def _reconnect(self) -> None:
        self.connect_to(self._address)

    def _status(self, event: StatusChanged) -> None:
        self.server.show_status(event.status)

    def _jobs_listed(self, event: JobsListed) -> None:
        self.jobs.show_server_jobs(event.jobs)

    def _inspected(self, event: PlateInspected) -> None:
        self.plate.show_inspected(event)

    def _uploading(self, event: Uploading) -> None:
        self.progress.show_bytes("upload", event.done, event.total)

    def _job_moved(self, event: JobMoved) -> None:
        job = event.job
        self._record = event.record or self._record
        if job.state == "queued":
            before = f", {job.position} before it" if job.position else ""
            self.progress.headline.setText(f"{job.name}: in the queue{before}.")
        else:
            self.progress.headline.setText(f"{job.name}: solving.")
        self.jobs.show_records(self._history.records())

    def _job_progress(self, event: JobProgress) -> None:
        self.progress.show_progress(event.progress)

    def _cancelling(self, event: Cancelling) -> None:
        self.cancel_button.setEnabled(False)
        self.progress.finish("Cancelling\u2026")

    def _fetching(self, event: Fetching) -> None:
        self.progress.headline.setText("Getting the results.")
        self.progress.show_bytes("fetch", event.done, event.total)

    def _ended(self, event: SolveEnded) -> None:
        self._set_busy(False)
        self._record = event.record or self._record
        self.jobs.show_records(self._history.records())
        if event.error is None:
            assert event.folder is not None
            self.progress.finish("Solved.")
            self._session.read_result(event.folder)
            return
        if event.error.code == "job_cancelled":
            self.progress.finish("Cancelled.")
            return
        self.progress.finish("Not solved.")
        self.message.show_error(event.error)

    def _result_read(self, event: ResultRead) -> None:
        if event.quality is None:
            assert event.error is not None
            self.message.show_error(event.error)
            return
        self.result.show_quality(event.quality)
        self.applying.show_result(event.folder, event.quality, self._record)
        self.tabs.setCurrentWidget(self._quality)

    def _notice(self, event: ServerNotice) -> None:
        self.message.show_error(event.error)

    _handlers = {
        ConnectionState: _connection,
        StatusChanged: _status,
        JobsListed: _jobs_listed,
        PlateInspected: _inspected,
        Uploading: _uploading,
        JobMoved: _job_moved,
        JobProgress: _job_progress,
        Cancelling: _cancelling,
        Fetching: _fetching,
        SolveEnded: _ended,
        ResultRead: _result_read,
        ServerNotice: _notice,
    }

    # --- states

    def _begin(self, headline: str) -> None:
        self.message.hide()
        self.progress.start(headline)
        self.tabs.setCurrentWidget(self.progress)
        self._set_busy(True)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        self._show_buttons()

    def _show_buttons(self) -> None:
        self.solve_button.setEnabled(self.plate.plate is not None and not self._busy)
        self.cancel_button.setEnabled(self._busy)

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        """The job goes on; the next dialog finds it."""
        self._timer.stop()
        self._session.close()
        super().closeEvent(event)

    def hideEvent(self, event: QHideEvent) -> None:  # noqa: N802
        self._save_values()
        super().hideEvent(event)

    def shut_down(self) -> None:
        """End everything now: for the end of the host program."""
        self._timer.stop()
        self._session.stop()
