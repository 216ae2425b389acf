"""A running solve: one bar for each stage, the time left, and what the stage sees."""

from __future__ import annotations

import time

from megasam_shared.protocol import Progress
from megasam_shared.stages import STAGES
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPixmap
from PySide6.QtWidgets import (
    QGridLayout,
    QLabel,
    QProgressBar,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

_STEPS = 1000


class PreviewView(QWidget):
    """The newest preview picture, as large as there is room, never larger than twice its size."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._picture = QPixmap()
        self._caption = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(120)
        self.setAccessibleName("Preview")

    @property
    def caption(self) -> str:
        return self._caption

    def sizeHint(self) -> QSize:  # noqa: N802
        return QSize(320, 180)

    def show_jpeg(self, data: bytes, caption: str) -> None:
        """A picture that cannot be decoded leaves the one before."""
        picture = QPixmap()
        if picture.loadFromData(data):
            self._picture, self._caption = picture, caption
            self.update()

    def clear(self) -> None:
        self._picture, self._caption = QPixmap(), ""
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        painter = QPainter(self)
        self._paint(painter)
        # Not left to Python: whoever holds this frame, a profiler say, would keep the painter.
        painter.end()

    def _paint(self, painter: QPainter) -> None:
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        text_height = self.fontMetrics().height() + 4
        area = self.rect().adjusted(0, 0, 0, -text_height)
        text = self.rect().adjusted(0, area.height(), 0, 0)
        if self._picture.isNull():
            painter.setPen(self.palette().placeholderText().color())
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "No preview yet")
            return
        largest = self._picture.size() * 2
        size = self._picture.size().scaled(
            area.size().boundedTo(largest), Qt.AspectRatioMode.KeepAspectRatio
        )
        left = area.x() + (area.width() - size.width()) // 2
        top = area.y() + (area.height() - size.height()) // 2
        painter.drawPixmap(left, top, size.width(), size.height(), self._picture)
        painter.drawText(text, Qt.AlignmentFlag.AlignCenter, self._caption)


class ProgressPanel(QWidget):
    """Upload, the stages of a solve, and the way back of the results."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.headline = QLabel("Nothing is being solved.", wordWrap=True)
        self.left = QLabel()
        self.bars: dict[str, QProgressBar] = {}
        self.notes: dict[str, QLabel] = {}
        self.preview = PreviewView()
        rows = [("upload", "Sending plate"), *((s.key, s.title) for s in STAGES)]
        rows.append(("fetch", "Getting results"))
        grid = QGridLayout()
        grid.setColumnStretch(1, 1)
        for row, (key, title) in enumerate(rows):
            bar = QProgressBar(maximum=_STEPS, textVisible=False)
            bar.setAccessibleName(title)
            bar.setFixedHeight(12)
            note = QLabel()
            note.setMinimumWidth(self.fontMetrics().horizontalAdvance("1000 of 1000, 59:59 left"))
            grid.addWidget(QLabel(title), row, 0)
            grid.addWidget(bar, row, 1)
            grid.addWidget(note, row, 2)
            self.bars[key], self.notes[key] = bar, note
        layout = QVBoxLayout(self)
        layout.addWidget(self.headline)
        layout.addWidget(self.left)
        layout.addLayout(grid)
        layout.addWidget(self.preview, 1)
        self._stage, self._stage_began, self._stage_from = "", 0.0, 0.0

    def start(self, headline: str) -> None:
        """Everything at 0 for a new solve."""
        self.headline.setText(headline)
        self.left.clear()
        self.preview.clear()
        self._stage = ""
        for key, bar in self.bars.items():
            bar.setValue(0)
            bar.setEnabled(True)
            self.notes[key].clear()

    def show_bytes(self, key: str, done: int, total: int) -> None:
        """Progress of ``upload`` or ``fetch``."""
        self._set(key, done / total if total else 1.0)
        self.notes[key].setText(f"{done / 1e6:.1f} of {total / 1e6:.1f} MB")

    def finish(self, headline: str) -> None:
        self.headline.setText(headline)
        self.left.clear()

    def show_progress(self, progress: Progress) -> None:
        self._show_other_stages(progress)
        if progress.stage in self.bars:
            self._show_stage(progress)
        self.left.setText(
            f"{progress.fraction:.0%} of the solve, {clock(progress.elapsed)} so far"
            + (f", about {clock(progress.eta)} left" if progress.eta is not None else "")
        )
        if progress.preview:
            self.preview.show_jpeg(progress.preview, f"frame {progress.preview_frame}")

    def _show_other_stages(self, progress: Progress) -> None:
        keys = [stage.key for stage in STAGES]
        reached = keys.index(progress.stage) if progress.stage in keys else 0
        if progress.stage:
            self._set("upload", 1.0)
        for index, key in enumerate(keys):
            if key in progress.skipped:
                self.bars[key].setEnabled(False)
                self.notes[key].setText("skipped")
            elif index < reached and self.bars[key].value() < _STEPS:
                self._set(key, 1.0)
                self.notes[key].setText("done")

    def _show_stage(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._stage_began, self._stage_from = progress.stage, now, progress.done
        share = progress.done / progress.total if progress.total > 0 else 0.0
        self._set(progress.stage, share)
        # Stages that do not count frames report a share of 1.
        counted = progress.total > 1
        text = f"{progress.done:.0f} of {progress.total:.0f}" if counted else f"{share:.0%}"
        made = progress.done - self._stage_from
        spent = now - self._stage_began
        if made > 0 and spent > 1.0 and share < 1.0:
            text += f", {clock(spent * (progress.total - progress.done) / made)} left"
        self.notes[progress.stage].setText(text)
        self.notes[progress.stage].setToolTip(progress.note)

    def _set(self, key: str, share: float) -> None:
        self.bars[key].setValue(round(_STEPS * min(1.0, max(0.0, share))))


def clock(seconds: float) -> str:
    """``0:42`` or ``1:02:03``."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
