"""Twelve rendered situations with exact truth, beside pycolmap's own automatic pipeline.

    python tests/benchmarks/situations.py [--clips NAME...] [--rendered DIR] [--render-only]
        [--cache DIR] [--skip-baseline] [--json FILE] [--keep DIR] [--solve-options ...]

The clips come from ``megasam_server.raycast.situations``: 640x360 (portrait 360x640), focal length
unknown to the solver, no masks. They are rendered into ``--rendered`` once and used again.

A clip passes when every frame is posed, the RMS rotation error after the best common rotation is
below 0.2 degrees (the maximum is printed too), and the median reprojection drift of true static
points is below 1 px. Drift: 400 random static pixels of every fifth frame, lifted with the exact
depth, projected through the true and through the solved camera after one similarity for the whole
clip (rotation from the orientations, scale and shift from the positions); on the tripod the points
are taken infinitely far away, so that only orientations and focal length matter. Columns otherwise
as in accuracy.py.

Exit code 1 when a clip that fails has the verdict ``good``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from accuracy import parser, print_reasons
from colmap_baseline import baseline
from megasam_server.raycast.clip import write_clip
from megasam_server.raycast.situations import SITUATIONS, build_take
from report import Row, print_table, row_of
from solutions import solve_into
from truth import TrueClip

MAX_ROTATION_DEG = 0.2
MAX_DRIFT_PX = 1.0
CACHE = Path.home() / ".cache" / "megasam_benchmarks"


def rendered(name: str, folder: Path) -> TrueClip:
    """The clip of a situation, rendered into ``folder`` unless it is there."""
    target = folder / name
    if not (target / "camera.json").is_file():
        unfinished = folder / f"{name}.partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_clip(build_take(name), unfinished)
        unfinished.rename(target)
    return TrueClip(target)


def passes(row: Row) -> bool:
    """The bar of a situation."""
    return (
        row.posed == row.frames
        and row.rotation_rms_deg is not None
        and row.rotation_rms_deg < MAX_ROTATION_DEG
        and row.drift_px is not None
        and row.drift_px < MAX_DRIFT_PX
    )


def main() -> int:
    options_parser = parser(__doc__)
    options_parser.add_argument("--rendered", type=Path, default=CACHE / "situations")
    options_parser.add_argument("--render-only", action="store_true")
    options = options_parser.parse_args()
    unknown = set(options.clips or []) - set(SITUATIONS)
    if unknown:
        raise SystemExit(f"No situation {', '.join(unknown)}; there are {', '.join(SITUATIONS)}.")
    rows: list[Row] = []
    for name in options.clips or SITUATIONS:
        situation = SITUATIONS[name]
        clip = rendered(name, options.rendered)
        if options.render_only:
            print(f"{name}: {clip.folder}", flush=True)
            continue
        solution = solve_into(options.keep, clip, options.solve_options)
        rows.append(row_of(clip, "megasam", solution, situation.rotation_only))
        if not options.skip_baseline:
            theirs = baseline(clip, options.cache or CACHE)
            rows.append(row_of(clip, "pycolmap", theirs, situation.rotation_only))
        print_table(rows[-2:] if not options.skip_baseline else rows[-1:])
    if not rows:
        return 0
    print()
    print_table(rows, passes)
    print_reasons(rows)
    for solver in dict.fromkeys(row.solver for row in rows):
        of_solver = [row for row in rows if row.solver == solver]
        print(f"{solver}: {sum(map(passes, of_solver))} of {len(of_solver)} pass")
    wrong = [
        row.clip
        for row in rows
        if row.solver == "megasam" and row.verdict == "good" and not passes(row)
    ]
    if wrong:
        print(f"FAILED, BUT CALLED GOOD: {', '.join(wrong)}")
    if options.json:
        maps = [row.to_map() | {"passes": passes(row)} for row in rows]
        options.json.write_text(json.dumps(maps, indent=1))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
