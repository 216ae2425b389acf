"""The log of a training run as a picture: ``curves.svg`` beside its ``training.csv``.

python -m megasam_server.training.curves RUN_FOLDER
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np

from megasam_server.export.svg_chart import COLOURS, HEIGHT, WIDTH, Chart, padded_range

NOT_DRAWN = {"step", "minutes", "lr", "steps_per_second"}
STYLE = (
    "text{font:12px sans-serif;fill:#333}.mid{text-anchor:middle}.end{text-anchor:end}"
    ".grid{stroke:#ddd}"
)
SMOOTHING = 0.2


def draw_curves(folder: Path) -> Path:
    """Draw every figure of ``training.csv`` over the steps, single values as dots, smoothed as a line.

    Returns:
        the file.

    Raises:
        OSError: there is no log.
    """
    with (folder / "training.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = [float(row["step"]) for row in rows]
    parts = [f'<rect width="{WIDTH}" height="100%" fill="white"/>']
    top = 0
    for name in [name for name in rows[0] if name not in NOT_DRAWN]:
        values = [float(row[name]) for row in rows]
        if not any(map(math.isfinite, values)):
            continue
        chart = Chart(padded_range(np.array(steps)), padded_range(np.array(values)), "step", name)
        chart.dots(steps, values, COLOURS[1], radius=2)
        chart.line(steps, smoothed(values), COLOURS[0])
        parts.append(f'<svg y="{top}" height="{HEIGHT}" width="{WIDTH}">{chart.svg()}</svg>')
        top += HEIGHT
    picture = folder / "curves.svg"
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}">'
    picture.write_text(
        "\n".join([opening, f"<style>{STYLE}</style>", *parts, "</svg>", ""]), "utf-8"
    )
    return picture


def smoothed(values: list[float]) -> list[float]:
    """Exponential mean of the values before each; what is not finite stays so and is left out."""
    result, mean = [], math.nan
    for value in values:
        if math.isfinite(value):
            mean = value if math.isnan(mean) else mean + SMOOTHING * (value - mean)
        result.append(mean if math.isfinite(value) else math.nan)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the run")
    print(draw_curves(parser.parse_args().folder))


if __name__ == "__main__":
    main()
