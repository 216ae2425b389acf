"""How good the solve is: verdict, error of each frame, reasons and warnings in words."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QScrollArea, QVBoxLayout, QWidget

from megasam_maya.solve_quality import SolveQuality
from megasam_maya.ui.error_graph import ErrorGraph
from megasam_maya.ui.theme import colours_of, set_text_colour, verdict_colour


class ResultPanel(QWidget):
    """The quality read-out. ``frame_chosen`` carries a frame number of the plate."""

    frame_chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.verdict = QLabel("No solve yet.")
        font = self.verdict.font()
        font.setBold(True)
        font.setPointSizeF(font.pointSizeF() * 1.25)
        self.verdict.setFont(font)
        self.numbers = QLabel(wordWrap=True)
        self.frame = QLabel()
        self.graph = ErrorGraph()
        self.words = QLabel(wordWrap=True)
        self.words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.words.setTextFormat(Qt.TextFormat.PlainText)
        self.words.setContentsMargins(2, 2, 2, 2)
        scroll = QScrollArea(widgetResizable=True)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        scroll.setWidget(self.words)
        scroll.setMinimumHeight(50)
        scroll.setAccessibleName("Reasons and warnings")
        top = QHBoxLayout()
        top.addWidget(self.verdict, 1)
        top.addWidget(self.frame)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(top)
        layout.addWidget(self.numbers)
        layout.addWidget(self.graph, 2)
        layout.addWidget(scroll, 1)
        self.quality: SolveQuality | None = None
        self.graph.frame_chosen.connect(self._choose)

    def clear(self, text: str) -> None:
        self.quality = None
        self.verdict.setText(text)
        set_text_colour(self.verdict, self.palette().color(self.foregroundRole()))
        for label in (self.numbers, self.words, self.frame):
            label.clear()
        self.graph.show_errors([], [], 0.0)

    def show_quality(self, quality: SolveQuality) -> None:
        self.quality = quality
        measured = any(error is not None for error in quality.errors)
        rms = f" \u2014 {quality.rms_px:.2f} px RMS" if measured else ""
        self.verdict.setText(quality.headline + rms)
        set_text_colour(self.verdict, verdict_colour(self, quality.verdict))
        facts = [f"{label.lower()} {text}" for label, text in quality.facts]
        # Lines break between facts, not inside them.
        self.numbers.setText(" \u00b7 ".join(fact.replace(" ", "\u00a0") for fact in facts))
        set_text_colour(self.numbers, colours_of(self).quiet)
        self.graph.show_errors(quality.frames, quality.errors, quality.rms_px)
        self.words.setText("\n".join(_lines(quality)))
        self.frame.clear()

    def _choose(self, frame: int) -> None:
        assert self.quality is not None
        error = self.quality.errors[self.quality.frames.index(frame)]
        measured = "no error measured" if error is None else f"{error:.2f} px"
        self.frame.setText(f"frame {frame}: {measured}")
        self.frame_chosen.emit(frame)


def _lines(quality: SolveQuality) -> list[str]:
    lines = [f"\u2022 {reason}" for reason in quality.reasons]
    lines += [f"\u26a0 {message} {hint}".rstrip() for message, hint in quality.warnings]
    worst = ", ".join(f"{frame} ({error:.2f} px)" for frame, error in quality.worst)
    if worst:
        lines.append(f"Worst frames: {worst}")
    if quality.status:
        lines.append(quality.status)
    return lines
