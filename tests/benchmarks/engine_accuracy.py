"""Accuracy of the engine megasam with built-in weights on real clips with ground truth.

    python tests/benchmarks/engine_accuracy.py DIR... [--clips NAME...] [--focal unknown known]
        [--preset balanced] [--set SETTING=VALUE ...] [--weights DIR] [--random-weights]
        [--checkpoints DIR] [--keep DIR] [--json FILE]

DIR is a clip folder or a folder of clips (see truth.py). Each clip is solved twice in this process,
as a worker solves it: with unknown focal length, and with the true one. No masks are given. Needs
neither server nor media libraries: frames are read by OpenCV, and results are scored, not written.

Official checkpoints are not used, unless ``--checkpoints`` names a folder of them. ``--weights``:
a folder in place of the package's ``weights/``; ``--random-weights``: of no meaning, to try the
script. ``--set`` takes JSON, e.g. ``--set tracking_resolution=160``. ``--keep``: a folder for the paths of
the dense tracker, one file for each solve, which refinement_accuracy.py reads.

Columns as in accuracy.py, and ``masks``: intersection over union of what was found moving and the
clip's exact masks. Rows appear, and are added to ``--json``, as they are solved; a solve that fails
is a row without poses. Exit code 1 when there is such a row, or one that is wrongly called good.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

from plate_by_opencv import read_with_opencv, stand_in_for_media

sys.path.insert(0, str(Path(__file__).parents[2]))
stand_in_for_media()

import torch  # noqa: E402
from megasam_server.checkpoints.locate import (  # noqa: E402
    BUILT_IN_VARIABLE,
    CHECKPOINTS_VARIABLE,
)
from megasam_server.pipeline.job import SolveJob  # noqa: E402
from megasam_server.pipeline.progress import SilentProgress  # noqa: E402
from megasam_server.pipeline.run import run_job  # noqa: E402
from megasam_server.pipeline.solved_shot import SolvedShot  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402
from megasam_shared.settings import SolveSettings  # noqa: E402
from report import Row, print_head, print_row, row_of  # noqa: E402
from solutions import Solution  # noqa: E402
from truth import TrueClip, find_clips  # noqa: E402


def solve(
    clip: TrueClip, focal: str, settings: SolveSettings, keep: Path | None
) -> tuple[Row, str]:
    """One row, and the status that the artist would read."""
    solver = f"{focal} focal"
    rows: list[Row] = []
    started = time.monotonic()

    def score(shot: SolvedShot) -> None:
        said, seconds = shot.quality, time.monotonic() - started
        solution = Solution.of_cameras(shot.cameras, said.verdict, seconds, said.reasons)
        rows.append(row_of(clip, solver, solution, motion_masks=shot.motion_masks))

    read_with_opencv(score)
    with tempfile.TemporaryDirectory(prefix="megasam_bench_") as folder:
        work = Path(folder)
        job = SolveJob(clip.frames[0].parent, None, settings, work, work / "results")
        try:
            status = run_job(job, SilentProgress())["status"]
        except MegasamError as error:
            status = f"{error.code}: {error.message}"
        except Exception as error:  # the next clip is still worth solving
            traceback.print_exc()
            status = f"{type(error).__name__}: {error}"
        if keep and (track := work / "dense_track.npz").is_file():
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(track, dense_track_file(keep, clip, focal))
    if rows:
        return rows[0], status
    nothing = Solution({}, {}, "failed", time.monotonic() - started, [])
    return row_of(clip, solver, nothing), status


def dense_track_file(folder: Path, clip: TrueClip, focal: str) -> Path:
    """Where ``--keep`` puts the path of a solve."""
    return folder / f"{clip.name}_{focal}.npz"


def settings_of(options: argparse.Namespace, clip: TrueClip, focal: str) -> SolveSettings:
    overrides = {name: json.loads(value) for name, value in (s.split("=", 1) for s in options.set)}
    if focal == "known":
        overrides["focal_length_px"] = float(clip.cameras.intrinsics.fx[0])
    return SolveSettings(
        engine="megasam", quality_preset=options.preset, fallback_policy="fail", **overrides
    )


def choose_weights(options: argparse.Namespace, temporary: Path) -> None:
    """Say in the environment where weights are."""
    os.environ[CHECKPOINTS_VARIABLE] = str(options.checkpoints or temporary / "none")
    if options.weights:
        os.environ[BUILT_IN_VARIABLE] = str(options.weights)
    elif options.random_weights:
        from random_checkpoints import random_built_in_folder

        random_built_in_folder(temporary / "random")
        os.environ[BUILT_IN_VARIABLE] = str(temporary / "random")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--clips", nargs="+", help="only clips of these names")
    parser.add_argument("--focal", nargs="+", choices=("unknown", "known"))
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_intermixed_args()
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{machine}, torch {torch.__version__}, {options.preset} {' '.join(options.set)}")
    rows: list[Row] = []
    with ExitStack() as stack:
        choose_weights(options, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        print_head()
        for clip in find_clips(options.folders):
            if options.clips and clip.name not in options.clips:
                continue
            for focal in options.focal or ("unknown", "known"):
                row, status = solve(clip, focal, settings_of(options, clip, focal), options.keep)
                rows.append(row)
                print_row(row)
                print("    " + " | ".join([status, *row.reasons]), flush=True)
                if options.json:
                    options.json.write_text(json.dumps([r.to_map() for r in rows], indent=1))
    return int(any(row.wrongly_good or row.posed < row.frames for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
