"""``megasam status``: how a server is, as a live table, once, or as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import JobInfo, RunningJob, ServerStatus
from megasam_shared.server_keys import (
    full_address,
    keys_for,
)
from megasam_shared.stages import STAGE_BY_KEY
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from megasam_server.cli.durations import duration
from megasam_server.cli.key_options import ClientKeyOption, ServerKeyOption
from megasam_server.cli.serve import CONFIG_HELP, settings_of

_SHOWN_JOBS = 12
_STATE_STYLE = {"running": "bold", "done": "green", "failed": "red", "cancelled": "dim"}
# Where a server that listens everywhere is reached from its own machine.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "[::]": "[::1]"}


def status(
    server: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Address of the server; default: that of this machine's."
        ),
    ] = None,
    server_key: ServerKeyOption = None,
    client_key: ClientKeyOption = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Once, as JSON.")] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, help="How often.")] = 1.0,
) -> None:
    """Show how a server is: version, GPUs, queue, running jobs, what it has counted.

    Of jobs, those of this client; all of them where the server lets clients share jobs.
    """
    address = full_address(server) if server else _own_address(config)
    keys = keys_for(address, server_key, client_key)
    with SolverClient(address, name="megasam status", keys=keys) as client:
        client.connect()
        if as_json:
            print(json.dumps(_as_map(client.server_status(), client.list_jobs()), indent=1))
        elif once:
            Console().print(_view(address, client.server_status(), client.list_jobs()))
        else:
            _watch(client, address, every)


def _own_address(config: Path | None) -> str:
    """Where the server with that config file is reached from here."""
    bind = full_address(settings_of(config, {}).values["server.bind"])
    host, _, port = bind.removeprefix("tcp://").rpartition(":")
    return f"tcp://{_EVERYWHERE.get(host, host)}:{port}"


def _watch(client: SolverClient, address: str, every: float) -> None:
    try:
        with Live(screen=True, auto_refresh=False) as live:
            while True:
                try:
                    view = _view(address, client.server_status(), client.list_jobs())
                except MegasamError as error:
                    if error.code not in ("server_lost", "server_timeout"):
                        raise
                    view = Text(str(error), style="red")
                live.update(view, refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        raise typer.Exit from None


def _as_map(now: ServerStatus, jobs: list[JobInfo]) -> dict:
    fields = asdict(now)
    del fields["request"]
    counters = fields.pop("counters")
    running = fields.pop("jobs")
    fields["running_jobs"] = running
    fields["jobs"] = [asdict(job) for job in jobs]
    fields["counters"] = {
        f"{counted['name']}{{{counted['label']}}}" if counted["label"] else counted["name"]: (
            counted["count"]
        )
        for counted in counters
    }
    return fields


def _view(address: str, now: ServerStatus, jobs: list[JobInfo]) -> Group:
    head = Text(f"MegaSAM server {now.version} at {address}, up {duration(now.uptime)}")
    if now.draining:
        head.append("  stopping: takes no jobs", style="bold yellow")
    parts = [head, Text(f"{now.running} running on {now.workers}, {now.queued} waiting")]
    parts += [Text(line) for line in _gpu_lines(now)]
    if jobs:
        parts += [Text(), _job_table(now, jobs)]
    counters = ", ".join(_counter_words(now))
    return Group(*parts, Text(), Text(counters or "nothing counted yet", style="dim"))


def _gpu_lines(now: ServerStatus) -> Iterator[str]:
    for gpu in now.gpus:
        memory = "memory unknown"
        if gpu.used is not None and gpu.total is not None:
            memory = f"{gpu.used / 1024:.1f} of {gpu.total / 1024:.1f} GB"
        busy = "" if gpu.busy is None else f", {gpu.busy} % busy"
        yield f"GPU {gpu.number} {gpu.name}: {memory}{busy}"


def _job_table(now: ServerStatus, jobs: list[JobInfo]) -> Table:
    """What is not over first, in the order of the queue; then the last that ended."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("Job", "Plate", "State", "Stage", "Done", "Left"):
        table.add_column(title, no_wrap=title != "Plate", overflow="fold")
    running = {job.job: job for job in now.jobs}
    order = {"running": 0, "queued": 1}
    # Python sorts stably: of jobs that are over, the newest stays first.
    jobs = sorted(jobs, key=lambda job: (order.get(job.state, 2), job.position))
    for job in jobs[:_SHOWN_JOBS]:
        stage, done, left = _progress_words(running.get(job.job), job)
        state = Text(job.state, style=_STATE_STYLE.get(job.state, ""))
        table.add_row(job.job[:8], escape(job.name), state, escape(stage), done, left)
    if len(jobs) > _SHOWN_JOBS:
        table.add_row("", f"and {len(jobs) - _SHOWN_JOBS} more")
    return table


def _progress_words(run: RunningJob | None, job: JobInfo) -> tuple[str, str, str]:
    if run is None:
        if job.state == "queued":
            return f"{job.position} before it", "", ""
        return ("" if job.error is None else job.error.code), "", ""
    stage = STAGE_BY_KEY.get(run.stage)
    title = run.stage if stage is None else stage.title
    if run.total > 1:
        title += f" {run.done:g}/{run.total:g}"
    return title, f"{run.fraction:.0%}", "" if run.eta is None else duration(run.eta)


def _counter_words(now: ServerStatus) -> Iterator[str]:
    for counted in sorted(now.counters, key=lambda c: (c.name, c.label)):
        label = f" ({counted.label})" if counted.label else ""
        name = counted.name.replace("_", " ")
        if counted.name.endswith("_bytes"):
            yield f"{name.removesuffix(' bytes')} {counted.count / 1e6:.1f} MB"
        else:
            yield f"{name}{label} {counted.count}"
