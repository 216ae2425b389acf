"""Reprojection error frame by frame; a click goes to the frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPolygonF,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from megasam_maya.ui.theme import colours_of

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 20


class ErrorGraph(QWidget):
    """RMS error in plate pixels over frame numbers.

    ``frame_chosen`` carries the frame number of a click, or of the arrow keys.
    """

    frame_chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._frames: list[int] = []
        self._errors: list[float | None] = []
        self._rms = 0.0
        self._chosen: int | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(110)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Error of each frame")
        self.setToolTip("Click a frame to go there; arrow keys step through frames")

    def sizeHint(self) -> QSize:  # noqa: N802
        return QSize(400, 140)

    def show_errors(
        self, frames: Sequence[int], errors: Sequence[float | None], rms: float
    ) -> None:
        """Frame numbers, the error of each (None: nothing to measure there), and that of all."""
        pairs = list(zip(frames, errors, strict=False))
        self._frames = [frame for frame, _ in pairs]
        self._errors = [error for _, error in pairs]
        self._rms, self._chosen = rms, None
        self.update()

    @property
    def top(self) -> float:
        """Upper end of the scale, px: a round number above every error."""
        largest = max((e for e in self._errors if e is not None), default=0.0)
        largest = max(largest, self._rms, 0.1) * 1.05
        step = 10 ** math.floor(math.log10(largest))
        return next(step * k for k in (1, 1.5, 2, 3, 4, 5, 7.5, 10) if step * k >= largest)

    def x_of(self, index: int) -> float:
        """Where a frame lies, in pixels of the widget."""
        area = self._area()
        return area.left() + area.width() * index / max(1, len(self._frames) - 1)

    def _area(self) -> QRectF:
        return QRectF(self.rect()).adjusted(_LEFT, _TOP, -_RIGHT, -_BOTTOM)

    def _y_of(self, error: float) -> float:
        area = self._area()
        return area.bottom() - area.height() * error / self.top

    def _index_at(self, x: float) -> int:
        area = self._area()
        share = (x - area.left()) / max(1.0, area.width())
        return min(len(self._frames) - 1, max(0, round(share * (len(self._frames) - 1))))

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        if self._frames and event.button() == Qt.MouseButton.LeftButton:
            self._choose(self._index_at(event.position().x()))

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(event.key())
        if step is None or not self._frames:
            super().keyPressEvent(event)
            return
        now = -1 if self._chosen is None else self._chosen
        self._choose(min(len(self._frames) - 1, max(0, now + step)))

    def _choose(self, index: int) -> None:
        self._chosen = index
        self.update()
        self.frame_chosen.emit(self._frames[index])

    def event(self, event) -> bool:
        if isinstance(event, QHelpEvent) and self._frames:
            index = self._index_at(event.pos().x())
            error = self._errors[index]
            said = "nothing to measure" if error is None else f"{error:.2f} px"
            QToolTip.showText(event.globalPos(), f"frame {self._frames[index]}: {said}", self)
            return True
        return super().event(event)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        painter = QPainter(self)
        self._paint(painter)
        painter.end()

    def _paint(self, painter: QPainter) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if not self._frames:
            painter.setPen(self.palette().placeholderText().color())
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "No solve yet")
            return
        self._paint_scale(painter)
        colours = colours_of(self)
        painter.setPen(QPen(colours.line, 1.5))
        for line in self._lines():
            if line.size() == 1:
                painter.drawEllipse(line.at(0), 1.5, 1.5)
            else:
                painter.drawPolyline(line)
        area = self._area()
        painter.setPen(QPen(colours.check, 1, Qt.PenStyle.DashLine))
        mean = self._y_of(self._rms)
        painter.drawLine(QPointF(area.left(), mean), QPointF(area.right(), mean))
        if self._chosen is not None:
            painter.setPen(QPen(self.palette().highlight().color(), 2))
            x = self.x_of(self._chosen)
            painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))

    def _paint_scale(self, painter: QPainter) -> None:
        area, colours = self._area(), colours_of(self)
        centred = Qt.AlignmentFlag.AlignVCenter
        for share in (0.0, 0.5, 1.0):
            y = area.bottom() - share * area.height()
            painter.setPen(colours.grid)
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(colours.quiet)
            text = QRectF(0, y - 9, _LEFT - 4, 18)
            unit = " px" if share == 1.0 else ""
            painter.drawText(
                text, Qt.AlignmentFlag.AlignRight | centred, f"{share * self.top:.3g}{unit}"
            )
        below = QRectF(area.left() - 20, area.bottom() + 2, area.width() + 20 + _RIGHT, _BOTTOM - 2)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft | centred, f"    {self._frames[0]}")
        painter.drawText(below, Qt.AlignmentFlag.AlignRight | centred, f"{self._frames[-1]}")

    def _lines(self) -> list[QPolygonF]:
        """The curve, broken where a frame has no error."""
        lines, line = [], QPolygonF()
        for index, error in enumerate(self._errors):
            if error is not None:
                line.append(QPointF(self.x_of(index), self._y_of(error)))
            elif not line.isEmpty():
                lines.append(line)
                line = QPolygonF()
        return lines if line.isEmpty() else [*lines, line]
