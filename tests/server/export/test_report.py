"""The report is one valid page that needs nothing else, and says what the solve says."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from megasam_server.export.report import write_report
from megasam_server.export.shot_extrinsics import shot_extrinsics
from megasam_server.export.svg_chart import Chart, padded_range, ticks
from megasam_shared.settings import SolveSettings

_VOID = {"meta", "img"}


class PageReader(HTMLParser):
    """Collects text and sources, and fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read_report(tmp_path, shot, frames, settings=None) -> tuple[str, PageReader]:
    settings = settings or SolveSettings()
    path = tmp_path / "report.html"
    write_report(path, shot, frames, settings, shot_extrinsics(shot, "maya"))
    html = path.read_text(encoding="utf-8")
    return html, PageReader(html)


def test_report_is_one_self_contained_page(tmp_path, shot, frames):
    html, page = read_report(tmp_path, shot, frames)
    assert len(page.sources) == 3 * len(shot.cameras)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", html)
    charts = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(charts) == 5
    for chart in charts:
        ElementTree.fromstring(chart)
        assert "nan" not in chart


def test_report_says_what_the_solve_says(tmp_path, shot, frames):
    _, page = read_report(tmp_path, shot, frames)
    for text in (
        "Check: look at it",
        "The focal length is only known to within 6 %",
        "Frame <1003> is dark. Look at it & decide.",
        "0.520 plate pixels",
        "Depth Anything V2 Small",
        "Apache-2.0",
        "12.2 s",
        "512 MiB",
        "hardly observable",
        "36 mm film back, assumed",
        "Parts joined at frames 1003-1004",
        "0.021 degrees and 0.10% of the depth apart",
    ):
        assert text in page.text


def test_report_of_a_failed_prime_solve_without_points(tmp_path, shot, frames):
    intrinsics = replace(shot.cameras.intrinsics, fx=np.full(len(shot.cameras), 700.0))
    no_points = replace(
        shot.points,
        xyz=np.empty((0, 3)),
        rgb=np.empty((0, 3), np.uint8),
        error_px=np.empty(0),
        seen_point=np.empty(0, int),
        seen_frame=np.empty(0, int),
        seen_xy=np.empty((0, 2)),
    )
    quality = replace(
        shot.quality,
        verdict="failed",
        reasons=["Nothing stands still."],
        focal_profile=None,
        warnings=[],
        per_frame_rms_px=[None] * len(shot.cameras),
        rms_px=math.nan,
    )
    still = replace(
        shot.cameras, intrinsics=intrinsics, world_from_cam=np.tile(np.eye(4), (6, 1, 1))
    )
    shot = replace(shot, cameras=still, points=no_points, quality=quality, checkpoint_licences=[])
    settings = SolveSettings(focal_mm=50.0, film_back_mm=24.0)
    html, page = read_report(tmp_path, shot, frames, settings)
    assert html.count("<svg") == 3
    assert "Failed: do not use this camera." in page.text
    assert "Warnings" not in page.text
    assert "24 mm film back" in page.text and "assumed" not in page.text


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), at_most=st.integers(2, 10))
def test_ticks_are_round_few_and_inside(low, span, at_most):
    values = ticks(low, low + span, at_most)
    assert len(values) <= at_most + 1
    assert all(low - 1e-6 * span <= v <= low + span + 1e-6 * span for v in values)
    if len(values) > 1:
        step = values[1] - values[0]
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3


def test_a_line_breaks_at_gaps_and_dots_stay_inside():
    chart = Chart((0, 10), (0, 1), "x", "y")
    chart.line([0, 1, 2, 3, 4], [0, 1, math.nan, 1, 0], "red", "a<b")
    chart.dots([5, 50], [0.5, 0.5], "blue")
    svg = chart.svg()
    ElementTree.fromstring(svg)
    assert svg.count("<polyline") == 2
    assert svg.count("<circle") == 1


@pytest.mark.parametrize("values", [[], [math.nan], [5.0], [0.0, 0.0], [1e9, 1e9]])
def test_a_range_is_never_empty(values):
    low, high = padded_range(np.array(values))
    assert low < high
