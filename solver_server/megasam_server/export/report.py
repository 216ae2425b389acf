"""``report.html``: one self-contained page that says how good the solve is and shows why."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from statistics import median

from megasam_shared.field_spec import FieldSpec
from megasam_shared.settings import FIELDS, SolveSettings
from megasam_shared.stages import STAGES

from megasam_server.export import report_charts
from megasam_server.export.contact_sheet import contact_sheet
from megasam_server.export.scene import DEFAULT_FILM_BACK_MM
from megasam_server.media.frame_store import FrameStore
from megasam_server.pipeline.solved_shot import SolvedShot

_VERDICT_TEXT = {
    "good": "Good: ready to use.",
    "check": "Check: look at it against the plate before you use it.",
    "failed": "Failed: do not use this camera.",
}
_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: #20262c;
  background: #f5f6f8; margin: 0 }
main { max-width: 1340px; margin: 0 auto; padding: 24px }
h1 { font-size: 24px; margin: 0 } h2 { font-size: 17px; margin: 0 0 8px }
p { margin: 4px 0 } .muted { color: #66707a }
section { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; padding: 16px 20px;
  margin: 16px 0; overflow-x: auto }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(560px, 100%), 1fr));
  gap: 0 16px; align-items: start }
.columns section { margin: 8px 0 }
.verdict { border-left: 8px solid #8a939c } .good { border-left-color: #2c8a4b }
.check { border-left-color: #d99a1c } .failed { border-left-color: #c6392f }
.verdict b { font-size: 18px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 3px 18px 3px 0; vertical-align: top; font-weight: normal }
th { color: #66707a }
.sheet td, .sheet th { padding: 0 4px 4px 0 } .sheet img { display: block; width: 148px }
svg.chart { width: 100%; height: auto; display: block; font-size: 12px; fill: #4a535c }
svg .grid { stroke: #e8ebee; fill: none } svg .mid { text-anchor: middle }
svg .end { text-anchor: end }
ul { margin: 6px 0; padding-left: 20px }
"""


def write_report(
    path: Path,
    shot: SolvedShot,
    frames: FrameStore,
    settings: SolveSettings,
    extrinsics: Mapping,
) -> None:
    """Write the report.

    Args:
        path: ``.html`` to write.
        shot: what was solved.
        frames: the N frames that were solved, RGB.
        settings: of the solve.
        extrinsics: the CAMERA_EXTRINSICS map of the shot.
    """
    path.write_text(_page(shot, frames, settings, extrinsics), encoding="utf-8", newline="\n")


def _page(
    shot: SolvedShot,
    frames: FrameStore,
    settings: SolveSettings,
    extrinsics: Mapping,
) -> str:
    title = f"{escape(shot.plate.name)}: camera solve"
    body = [
        f"<h1>{title}</h1>",
        f'<p class="muted">{escape(_plate_line(shot))}</p>',
        _verdict(shot),
        _warnings(shot),
        '<div class="columns">',
        _section("Numbers", _table(_numbers(shot, settings))),
        *_charts(shot, extrinsics),
        "</div>",
        _section("Frames", _contact_sheet(shot, frames)),
        '<div class="columns">',
        _section("Stages", _stages(shot)),
        _section("Settings", _table(_settings(settings))),
        _section("Checkpoints", _checkpoints(shot)),
        "</div>",
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def _plate_line(shot: SolvedShot) -> str:
    plate = shot.plate
    frames = f"frames {plate.frame_numbers[0]}-{plate.frame_numbers[-1]}"
    missing = f", {len(plate.missing)} missing" if plate.missing else ""
    return (
        f"{plate.kind} of {plate.num_frames} frames ({frames}{missing}), "
        f"{plate.width} x {plate.height} px, {plate.fps:.6g} fps. {shot.solving_method}. "
        f"{shot.status}"
    )


def _verdict(shot: SolvedShot) -> str:
    verdict = shot.quality.verdict
    reasons = _list(escape(reason) for reason in shot.quality.reasons)
    return f'<section class="verdict {verdict}"><b>{_VERDICT_TEXT[verdict]}</b>{reasons}</section>'


def _warnings(shot: SolvedShot) -> str:
    if not shot.quality.warnings:
        return ""
    lines = (
        f'{escape(w.message)} {escape(w.hint)} <span class="muted">({escape(w.code)})</span>'
        for w in shot.quality.warnings
    )
    return _section("Warnings", _list(lines))


def _numbers(shot: SolvedShot, settings: SolveSettings) -> list[tuple[str, str]]:
    quality = shot.quality
    film_back_mm = settings.film_back_mm or DEFAULT_FILM_BACK_MM
    focal = shot.cameras.intrinsics.fx
    focal_px, focal_mm = median(focal), median(focal) * film_back_mm / shot.plate.width
    how = "given" if settings.focal_given else "estimated"
    assumed = "" if settings.film_back_mm else ", assumed"
    return [
        ("RMS reprojection error", f"{quality.rms_px:.3f} plate pixels"),
        ("Solved static points", f"{quality.num_points}"),
        ("Frames a point is seen in, median", f"{quality.median_track_length:g}"),
        ("Picture covered by points", f"{quality.coverage:.0%}"),
        ("Moving pixels", f"{quality.moving_share:.1%}"),
        ("Camera path / depth", f"{quality.baseline_to_depth:.3f}"),
        (f"Focal length, {how}", f"{focal_px:.1f} px"),
        ("Focal length", f"{focal_mm:.2f} mm on a {film_back_mm:g} mm film back{assumed}"),
        ("Scale", "metres" if quality.scale_is_metric else "not known: one unit is taken as 1 m"),
        *(
            (
                f"Parts joined at frames {join.first_frame}-{join.last_frame}",
                f"{join.rotation_deg:.3f} degrees and {join.translation_percent:.2f}% of the depth apart",
            )
            for join in quality.window_joins
        ),
    ]


def _charts(shot: SolvedShot, extrinsics: Mapping) -> list[str]:
    units = "m" if shot.quality.scale_is_metric else "units"
    charts = [
        ("Path from above", report_charts.path_from_above(shot, units)),
        ("Pan, tilt, roll", report_charts.camera_angles(extrinsics)),
        ("Error of each frame", report_charts.error_per_frame(shot)),
    ]
    profile = shot.quality.focal_profile
    if profile:
        verdict = "observable" if profile.observable else "hardly observable"
        charts.append((f"Focal length: {verdict}", report_charts.focal_profile(profile)))
    if report_charts.zooms(shot):
        charts.append(("Zoom", report_charts.focal_length(shot)))
    return [_section(title, svg) for title, svg in charts]


def _contact_sheet(shot: SolvedShot, frames: FrameStore) -> str:
    columns = list(contact_sheet(shot, frames))
    rows = [
        _row("th", "", [str(c.frame_number) for c in columns]),
        _row("td", "plate", [_image(c.plate, "plate") for c in columns]),
        _row("td", "moving", [_image(c.masked, "moving pixels in red") for c in columns]),
        _row("td", "depth", [_image(c.depth, "depth, white is near") for c in columns]),
    ]
    return f'<table class="sheet">{"".join(rows)}</table>'


def _row(cell: str, title: str, contents: list[str]) -> str:
    cells = "".join(f"<{cell}>{content}</{cell}>" for content in contents)
    return f"<tr><th>{title}</th>{cells}</tr>"


def _image(jpeg: bytes, alt: str) -> str:
    data = base64.b64encode(jpeg).decode("ascii")
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{data}">'


def _stages(shot: SolvedShot) -> str:
    rows = []
    for stage in STAGES:
        if stage.key in shot.stage_seconds:
            peak = shot.stage_peak_mib.get(stage.key)
            memory = f"{peak:.0f} MiB at most" if peak is not None else ""
            if stage.key in shot.stage_peak_vram_mib:
                memory += f", GPU {shot.stage_peak_vram_mib[stage.key]:.0f} MiB"
            rows.append((stage.title, f"{shot.stage_seconds[stage.key]:.1f} s", memory))
    return _table(rows)


def _settings(settings: SolveSettings) -> list[tuple[str, str]]:
    return [(name, _setting_text(FIELDS[name], v)) for name, v in settings.to_map().items()]


def _setting_text(spec: FieldSpec, value: object) -> str:
    """A setting's value in words: 0 and None say what they stand for."""
    if value is None:
        return spec.none_means
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == 0 and spec.zero_means:
        return spec.zero_means
    if value == "":
        return "default"
    return f"{value} {spec.unit}".strip()


def _checkpoints(shot: SolvedShot) -> str:
    if not shot.checkpoint_licences:
        return "<p>None: no network was used, and no licence but the program's own applies.</p>"
    return _table(shot.checkpoint_licences)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _list(items: Iterable[str]) -> str:
    """``items`` are HTML; nothing when there are none."""
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    """``rows`` are text; the first column names what the others say."""
    lines = (
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return f"<table>{''.join(lines)}</table>"
