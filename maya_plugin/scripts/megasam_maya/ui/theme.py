"""Colours of the dialog: those of the host where there is one, else a light or a dark palette."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication, QWidget

_ROLES = {
    QPalette.ColorRole.Window: ("#f2f2f2", "#2b2b2b"),
    QPalette.ColorRole.WindowText: ("#1a1a1a", "#e0e0e0"),
    QPalette.ColorRole.Base: ("#ffffff", "#1f1f1f"),
    QPalette.ColorRole.AlternateBase: ("#f7f7f7", "#262626"),
    QPalette.ColorRole.Text: ("#1a1a1a", "#e0e0e0"),
    QPalette.ColorRole.PlaceholderText: ("#757575", "#8c8c8c"),
    QPalette.ColorRole.Light: ("#ffffff", "#505050"),
    QPalette.ColorRole.Mid: ("#b8b8b8", "#242424"),
    QPalette.ColorRole.Dark: ("#9f9f9f", "#1a1a1a"),
    QPalette.ColorRole.Button: ("#e4e4e4", "#3c3c3c"),
    QPalette.ColorRole.ButtonText: ("#1a1a1a", "#e0e0e0"),
    QPalette.ColorRole.BrightText: ("#ffffff", "#ffffff"),
    QPalette.ColorRole.Highlight: ("#2f6fb3", "#4a86c5"),
    QPalette.ColorRole.HighlightedText: ("#ffffff", "#ffffff"),
    QPalette.ColorRole.ToolTipBase: ("#ffffe8", "#3a3a3a"),
    QPalette.ColorRole.ToolTipText: ("#1a1a1a", "#e0e0e0"),
    QPalette.ColorRole.Link: ("#1f5fa8", "#7fb2e8"),
}
_GREY = ("#9a9a9a", "#6e6e6e")


@dataclass(frozen=True)
class Colours:
    """Signal colours that are legible on the window's background."""

    good: QColor
    check: QColor
    failed: QColor
    quiet: QColor
    line: QColor
    grid: QColor


_LIGHT = Colours(*map(QColor, ("#1e7b34", "#9a6200", "#b3261e", "#666666", "#2f6fb3", "#d8d8d8")))
_DARK = Colours(*map(QColor, ("#6cc77f", "#e3b04b", "#f2827a", "#a0a0a0", "#6fa8dc", "#404040")))


def is_dark(widget: QWidget) -> bool:
    """The widget is drawn light on dark."""
    return widget.palette().color(QPalette.ColorRole.Window).lightness() < 128


def colours_of(widget: QWidget) -> Colours:
    """The signal colours for a widget's background."""
    return _DARK if is_dark(widget) else _LIGHT


def palette(dark: bool) -> QPalette:
    """The dialog's own palette, for where no host brings one."""
    result = QPalette()
    for role, shades in _ROLES.items():
        result.setColor(role, QColor(shades[dark]))
    for role in (
        QPalette.ColorRole.Text,
        QPalette.ColorRole.WindowText,
        QPalette.ColorRole.ButtonText,
    ):
        result.setColor(QPalette.ColorGroup.Disabled, role, QColor(_GREY[dark]))
    return result


def use_palette(application: QApplication, dark: bool) -> None:
    """Draw the whole application in the light or the dark palette."""
    application.setStyle("Fusion")
    application.setPalette(palette(dark))


def verdict_colour(widget: QWidget, verdict: str) -> QColor:
    colours = colours_of(widget)
    return {"good": colours.good, "check": colours.check}.get(verdict, colours.failed)


def set_text_colour(widget: QWidget, colour: QColor) -> None:
    changed = widget.palette()
    changed.setColor(QPalette.ColorRole.WindowText, colour)
    widget.setPalette(changed)
