"""Accuracy on real clips with ground truth, beside pycolmap's own automatic pipeline.

    python tests/benchmarks/accuracy.py [DIR...] [--clips NAME...] [--cache DIR] [--skip-baseline]
        [--masks] [--json FILE] [--keep DIR] [--solve-options ...]

DIR is a clip folder or a folder of clips; without one, ``gt/`` of MEGASAM_TEST_DATA or of
``../shared/data`` beside the checkout. The product runs through its public command line, with
unknown focal length and no masks (``--masks`` gives it, and pycolmap, the clips' exact masks where
they exist).

Columns: frames posed; rotation error, RMS and maximum over the posed frames in degrees, after the
best common rotation; ATE (RMS position error after the best similarity) in % of the true path and
in units of the truth; focal error in %; the product's own verdict; wall-clock seconds. ``-`` is
not scored: see the notes below the table. A verdict ``good`` on a clip with more than 2 degrees or
5 %, or with frames missing, is flagged. Exit code 1 when there is such a clip, or a frame without
a pose.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from colmap_baseline import baseline
from report import Row, print_table, row_of
from solutions import solve_into
from truth import find_clips


def real_clips() -> Path:
    """Folder ``gt`` of the real clips.

    Raises:
        SystemExit: they are not on this machine.
    """
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("MEGASAM_TEST_DATA", beside)) / "gt"
    if not folder.is_dir():
        raise SystemExit(
            f"No real clips in {folder}: set MEGASAM_TEST_DATA, or name folders of clips."
        )
    return folder


def parser(description: str) -> argparse.ArgumentParser:
    """The options that both benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", nargs="+", help="only clips of these names")
    parser.add_argument("--cache", type=Path, help="where pycolmap's results are kept")
    parser.add_argument("--skip-baseline", action="store_true", help="without pycolmap")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--keep", type=Path, help="keep the results in this folder")
    parser.add_argument("--solve-options", nargs="...", default=[], help="for megasam solve")
    return parser


def main() -> int:
    options_parser = parser(__doc__)
    options_parser.add_argument("folders", nargs="*", type=Path, metavar="DIR")
    options_parser.add_argument("--masks", action="store_true", help="give the exact masks")
    options = options_parser.parse_args()
    clips = find_clips(options.folders or [real_clips()])
    rows: list[Row] = []
    for clip in clips:
        if options.clips and clip.name not in options.clips:
            continue
        masked = options.masks and (clip.folder / "masks").is_dir()
        masks = ["--masks", str(clip.folder / "masks")] if masked else []
        solution = solve_into(options.keep, clip, [*masks, *options.solve_options])
        rows.append(row_of(clip, "megasam", solution))
        if not options.skip_baseline:
            cache = options.cache or Path.home() / ".cache" / "megasam_benchmarks"
            rows.append(row_of(clip, "pycolmap", baseline(clip, cache, masked)))
        print_table(rows[-2:] if not options.skip_baseline else rows[-1:])
    print()
    print_table(rows)
    for clip in clips:
        if clip.rules.note and clip.name in {row.clip for row in rows}:
            print(f"  {clip.name}: {clip.rules.note}")
    print_reasons(rows)
    if options.json:
        options.json.write_text(json.dumps([row.to_map() for row in rows], indent=1))
    ours = [row for row in rows if row.solver == "megasam"]
    return int(any(row.wrongly_good or row.posed < row.frames for row in ours))


def print_reasons(rows: list[Row]) -> None:
    """What the product said about clips that it does not call good."""
    for row in rows:
        if row.solver == "megasam" and row.reasons:
            print(f"  {row.clip} ({row.verdict}): " + " | ".join(row.reasons))


if __name__ == "__main__":
    raise SystemExit(main())
