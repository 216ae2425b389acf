"""``megasam demo``: film a room with known cameras, solve it, and say how far the solve is off."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path

from megasam_shared.remote_solve import FinishedSolve, check_output
from megasam_shared.settings import SolveSettings
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from megasam_server.cli.solve import EXIT_NOT_USABLE, solve_plate
from megasam_server.cli.watchers import print_json
from megasam_server.export.result_folder import ResultFolder
from megasam_server.media.movie_writer import write_movie
from megasam_server.raycast.clip import RenderedClip, render_clip, write_truth
from megasam_server.raycast.demo_scene import demo_take
from megasam_server.raycast.score import ResultErrors, score_results

DEMO_FOLDER = Path("megasam_demo")


def demo(plate: Path | None, out: Path | None, as_json: bool) -> int:
    """Run the demo; with ``plate``, just solve that one.

    Returns:
        exit code: 0 for a usable solve, 1 for one that must not be used.

    Raises:
        MegasamError: whatever went wrong.
    """
    console = Console(stderr=as_json)
    start = time.monotonic()
    if plate is not None:
        finished = solve_plate(plate, None, out, None, False, as_json, SolveSettings())
    else:
        finished = _film_and_solve(out or DEMO_FOLDER, as_json, console)
    console.print(f"{time.monotonic() - start:.0f} s in all")
    return 0 if finished.usable else EXIT_NOT_USABLE


def _film_and_solve(folder: Path, as_json: bool, console: Console) -> FinishedSolve:
    movie, results = folder / "demo.mp4", folder / "solve"
    check_output(results)
    clip = _film(movie, folder / "truth", console)
    console.print(f"Plate: {escape(str(movie.absolute()))}", soft_wrap=True)
    finished = solve_plate(movie, None, results, None, False, as_json, SolveSettings())
    errors = score_results(ResultFolder(finished.folder), clip)
    if as_json:
        print_json("demo", plate=str(movie.absolute()), errors=asdict(errors))
    else:
        console.print(_table(errors))
        console.print(f"Report: {escape(str(ResultFolder(results).report.absolute()))}")
        console.print("Your own plate: megasam demo PLATE, or megasam solve PLATE --help")
    return finished


def _film(movie: Path, truth: Path, console: Console) -> RenderedClip:
    """Render the demo clip, write it as a movie, and its true cameras beside it."""
    take = demo_take()
    with Progress(console=console) as bars:
        bar = bars.add_task("Rendering plate", total=take.num_frames)
        workers = min(4, os.cpu_count() or 1)
        clip = render_clip(take, lambda done, _: bars.update(bar, completed=done), workers)
    write_movie(movie, clip.rgb, clip.fps)
    write_truth(truth, clip.cameras, clip.fps)
    return clip


def _table(errors: ResultErrors) -> Table:
    table = Table("Against the ground truth", "", title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("frames with a camera", f"{errors.posed} of {errors.frames}")
    table.add_row("rotation, RMS", f"{errors.rotation_rms_deg:.3f} degrees")
    table.add_row("rotation, largest", f"{errors.rotation_max_deg:.3f} degrees")
    table.add_row("position, RMS", f"{errors.ate_percent:.2f} % of the path")
    table.add_row("focal length", f"{errors.focal_percent:.2f} %")
    table.add_row("depth of static pixels, median", f"{errors.depth_percent:.2f} %")
    table.add_row("motion mask, overlap (IoU)", f"{errors.mask_iou:.2f}")
    return table
