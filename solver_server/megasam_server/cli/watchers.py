"""A running solve on a terminal: bars for people, JSON lines for scripts."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import JobInfo, Progress
from megasam_shared.remote_solve import FinishedSolve, SolveWatcher
from megasam_shared.stages import STAGE_BY_KEY, STAGES
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from megasam_server.cli.durations import duration

_LEAST_INTERVAL = 0.1
_LEAST_FARM_INTERVAL = 2.0


class BarsWatcher(SolveWatcher):
    """One rich progress bar per stage. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BarsWatcher:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def on_upload(self, done: int, total: int) -> None:
        self._show("upload", "Uploading plate", done, total, f"{done / 1e6:.1f} MB")

    def on_job(self, job: JobInfo) -> None:
        if job.state == "queued" and job.position:
            self._bars.console.print(f"{job.position} jobs are before this one.")

    def on_progress(self, progress: Progress) -> None:
        if STAGES[0].key not in self._tasks:
            for stage in STAGES:
                self._show(stage.key, stage.title, 0, 1, "")
        for key in progress.skipped:
            self._show(key, STAGE_BY_KEY[key].title, 1, 1, "skipped")
        stage = STAGE_BY_KEY.get(progress.stage)
        if stage is not None and stage.key not in progress.skipped:
            self._show(stage.key, stage.title, progress.done, progress.total, progress.note)
        if progress.fraction == 1.0:
            # The last report of a short stage may have been throttled away.
            for stage in STAGES:
                task = self._bars.tasks[self._tasks[stage.key]]
                self._bars.update(task.id, completed=task.total or 1)
        left = "" if progress.eta is None else f", about {duration(progress.eta)} left"
        note = f"{duration(progress.elapsed)}{left}"
        self._show("all", "Solve", progress.fraction, 1.0, note)

    def on_notice(self, notice: MegasamError) -> None:
        self._bars.console.print(f"[yellow]{escape(str(notice))}[/]")

    def on_fetch(self, done: int, total: int) -> None:
        self._show("fetch", "Fetching results", done, total, f"{done / 1e6:.1f} MB")

    def _show(self, key: str, title: str, done: float, total: float, note: str) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(title, total=total, note="")
        self._bars.update(self._tasks[key], completed=done, total=total, note=note)


class JsonWatcher(SolveWatcher):
    """One JSON object per line on standard output, and nothing else there."""

    def __init__(self) -> None:
        self._last_bytes = 0.0

    def __enter__(self) -> JsonWatcher:
        return self

    def __exit__(self, *_: object) -> None: ...

    def on_upload(self, done: int, total: int) -> None:
        self._bytes("upload", done, total)

    def on_job(self, job: JobInfo) -> None:
        print_json("job", job=job.job, name=job.name, state=job.state, position=job.position)

    def on_progress(self, progress: Progress) -> None:
        fields = asdict(progress)
        del fields["preview"], fields["preview_frame"]
        print_json("progress", **fields)

    def on_notice(self, notice: MegasamError) -> None:
        print_json("notice", **notice.to_map())

    def on_fetch(self, done: int, total: int) -> None:
        self._bytes("fetch", done, total)

    def _bytes(self, event: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._last_bytes >= _LEAST_INTERVAL:
            self._last_bytes = now
            print_json(event, done=done, total=total)


class OpenJdWatcher(SolveWatcher):
    """Lines that a farm reads: Open Job Description's messages of progress and status."""

    def __init__(self) -> None:
        self._last = -_LEAST_FARM_INTERVAL

    def __enter__(self) -> OpenJdWatcher:
        return self

    def __exit__(self, *_: object) -> None: ...

    def on_progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.fraction < 1.0 and now - self._last < _LEAST_FARM_INTERVAL:
            return
        self._last = now
        stage = STAGE_BY_KEY.get(progress.stage)
        title = "Starting" if stage is None else stage.title
        left = "" if progress.eta is None else f", about {duration(progress.eta)} left"
        print(f"openjd_progress: {100 * progress.fraction:.1f}")
        print(f"openjd_status: {title}{left}", flush=True)


def print_openjd_error(error: MegasamError) -> None:
    """Why a task failed, where the farm shows it."""
    print(f"openjd_fail: {' '.join(str(error).split())}", flush=True)


def print_json(event: str, **fields: Any) -> None:
    """One event as one line."""
    print(json.dumps({"event": event, **fields}, allow_nan=False, default=str), flush=True)


def print_json_result(finished: FinishedSolve) -> None:
    """The last line of a solve that ended with results."""
    result = {key: value for key, value in finished.result.items() if key != "extrinsics"}
    print_json(
        "result",
        **result
        | {
            "job": finished.job,
            "out": str(finished.folder.absolute()),
            "verdict": finished.verdict,
            "usable": finished.usable,
        },
    )


def print_json_error(error: MegasamError) -> None:
    """The last line of a solve that failed."""
    print_json("error", **error.to_map())
