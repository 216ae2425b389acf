"""Small line charts as inline SVG.

By hand because a plotting library costs seconds of import, with the progress bar standing still,
for four charts of a few lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 620, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 26, 40
COLOURS = ("#2563b0", "#c2571a", "#2c8a4b", "#7a4fb5")


def ticks(low: float, high: float, at_most: int = 7) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between ``low`` and ``high``."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / at_most))
    step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= at_most)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def padded_range(values: np.ndarray, share: float = 0.06) -> tuple[float, float]:
    """Range of the finite ``values`` with a margin; never empty."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = (high - low) * share or max(1e-3, abs(high) * 0.1)
    return low - margin, high + margin


class Chart:
    """Axes, and what is drawn on them, from back to front.

    Args:
        x_range, y_range: what the axes span.
        x_label, y_label: with units.
        height: of the whole chart, px.
        equal: the same scale on both axes (maps); the range that has room to spare grows.
    """

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        x_label: str,
        y_label: str,
        *,
        height: int = HEIGHT,
        equal: bool = False,
    ) -> None:
        self._height = height
        self._plot_width = WIDTH - _LEFT - _RIGHT
        self._plot_height = height - _TOP - _BOTTOM
        if equal:
            x_range, y_range = self._equal_ranges(x_range, y_range)
        self._x_range, self._y_range = x_range, y_range
        self._labels = x_label, y_label
        self._marks: list[str] = []
        self._legend: list[tuple[str, str]] = []

    def _equal_ranges(self, x_range: tuple, y_range: tuple) -> tuple[tuple, tuple]:
        per_pixel = max(
            (x_range[1] - x_range[0]) / self._plot_width,
            (y_range[1] - y_range[0]) / self._plot_height,
        )
        return tuple(
            (sum(r) / 2 - per_pixel * size / 2, sum(r) / 2 + per_pixel * size / 2)
            for r, size in ((x_range, self._plot_width), (y_range, self._plot_height))
        )

    def _x(self, value: float) -> float:
        low, high = self._x_range
        return _LEFT + (value - low) / (high - low) * self._plot_width

    def _y(self, value: float) -> float:
        low, high = self._y_range
        return _TOP + (high - value) / (high - low) * self._plot_height

    def _add_to_legend(self, label: str, colour: str) -> None:
        if label:
            self._legend.append((label, colour))

    def line(self, xs: Sequence, ys: Sequence, colour: str, label: str = "") -> None:
        """A line through the points; it breaks where a value is not finite."""
        self._add_to_legend(label, colour)
        run: list[str] = []
        for x, y in [*zip(xs, ys, strict=True), (math.nan, math.nan)]:
            if math.isfinite(x) and math.isfinite(y):
                run.append(f"{self._x(x):.1f},{self._y(y):.1f}")
            elif run:
                points = " ".join(run if len(run) > 1 else run * 2)
                self._marks.append(
                    f'<polyline points="{points}" fill="none" stroke="{colour}" '
                    'stroke-width="1.8" stroke-linejoin="round" stroke-linecap="round"/>'
                )
                run = []

    def dots(
        self, xs: Sequence, ys: Sequence, colour: str, label: str = "", radius: float = 3
    ) -> None:
        """A dot on each point that lies inside the axes."""
        self._add_to_legend(label, colour)
        for x, y in zip(xs, ys, strict=True):
            if self._holds(x, y):
                self._marks.append(
                    f'<circle cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="{radius}" '
                    f'fill="{colour}"/>'
                )

    def band(self, start: float, stop: float, colour: str, label: str = "") -> None:
        """A shaded stretch of the x axis."""
        self._add_to_legend(label, colour)
        left = self._x(max(start, self._x_range[0]))
        right = self._x(min(stop, self._x_range[1]))
        self._marks.append(
            f'<rect x="{left:.1f}" y="{_TOP}" width="{max(0.0, right - left):.1f}" '
            f'height="{self._plot_height}" fill="{colour}"/>'
        )

    def _holds(self, x: float, y: float) -> bool:
        return (
            self._x_range[0] <= x <= self._x_range[1] and self._y_range[0] <= y <= self._y_range[1]
        )

    def svg(self) -> str:
        """The chart as one ``<svg>`` element; its text takes font and colour from the page."""
        bottom = _TOP + self._plot_height
        grid = []
        for value in ticks(*self._x_range):
            x = self._x(value)
            grid.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" class="grid"/>')
            grid.append(f'<text x="{x:.1f}" y="{bottom + 16}" class="mid">{value:g}</text>')
        for value in ticks(*self._y_range, at_most=5):
            y = self._y(value)
            grid.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" class="grid"/>')
            grid.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{value:.6g}</text>')
        x_label, y_label = map(escape, self._labels)
        middle = _LEFT + self._plot_width / 2
        return "\n".join(
            [
                f'<svg class="chart" viewBox="0 0 {WIDTH} {self._height}" role="img">',
                *grid,
                *self._marks,
                f'<text x="{middle}" y="{self._height - 6}" class="mid">{x_label}</text>',
                f'<text x="4" y="14">{y_label}</text>',
                *self._legend_marks(),
                "</svg>",
            ]
        )

    def _legend_marks(self) -> list[str]:
        """Labels in the top right corner, laid out from the right."""
        marks, right = [], float(WIDTH - _RIGHT)
        for label, colour in reversed(self._legend):
            right -= 6.4 * len(label)
            marks.append(f'<text x="{right:.1f}" y="14">{escape(label)}</text>')
            marks.append(
                f'<rect x="{right - 15:.1f}" y="6" width="10" height="10" rx="2" fill="{colour}"/>'
            )
            right -= 28
        return marks
