"""The process that solves jobs: ``python -m megasam_server.service.worker MODULE:FUNCTION``.

It is started before there is a job, so that one is always ready, and imports the solver while it
waits. It talks over its standard input and output in msgpack maps; whatever libraries print goes to
the job's log. When its input closes, the server is gone (or wants it gone), and it ends at once
with everything it started.

A job that leaves networks on the shelf may be followed by another: ``done`` or ``failed`` says so
with ``goes_on``, and ``rested`` follows when nothing of the job is left here, or why something is.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import msgpack
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import MAX_ARTEFACTS, MAX_PREVIEW_BYTES, Artefact

from megasam_server.pipeline.network_shelf import NetworkShelf
from megasam_server.service.between_jobs import BetweenJobs
from megasam_server.service.spare_room import disk_full, is_full
from megasam_server.service.worker_log import WORKER_FORMAT

SOLVER = "megasam_server.pipeline.run:run_job"

_REPORT_EVERY = 0.05
# Errors that a person can mend, but not one for a process that goes on.
_SHORT_OF_MEMORY = {"out_of_gpu_memory", "out_of_memory"}


def job_function() -> str:
    """What a server that is started on the command line lets its workers run: the solver, unless
    the project's own tests bring a function along."""
    return os.environ.get("MEGASAM_JOB_FUNCTION", SOLVER)


class Channel:
    """The pipes to the server, moved away from where libraries print and read."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._out = os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, kind: str, **fields: Any) -> None:
        data = memoryview(msgpack.packb({"kind": kind, **fields}))
        with self._lock:
            while data:
                data = data[os.write(self._out, data) :]

    def receive_until_closed(self, on_message: Any) -> None:
        unpacker = msgpack.Unpacker()
        while data := os.read(self._in, 1 << 16):
            unpacker.feed(data)
            for content in unpacker:
                on_message(content)


class ReportedProgress:
    """A :class:`megasam_server.pipeline.progress.Progress` that reports to the server.

    Stages call it per frame; only what a person could see is passed on, and each stage's first
    and last word.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stage = ""
        self._last_report = 0.0
        self._last_preview = 0.0

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        is_edge = stage != self._stage or done >= total
        if not is_edge and now - self._last_report < _REPORT_EVERY:
            return
        self._stage, self._last_report = stage, now
        self._channel.send(
            "progress", stage=stage, done=float(done), total=float(total), note=str(note)
        )

    def skip(self, stage: str, reason: str) -> None:
        self._channel.send("skip", stage=stage, reason=str(reason))

    def preview(self, stage: str, frame: int, jpeg: bytes) -> None:
        now = time.monotonic()
        if len(jpeg) <= MAX_PREVIEW_BYTES and now - self._last_preview >= _REPORT_EVERY:
            self._last_preview = now
            self._channel.send("preview", stage=stage, frame=int(frame), jpeg=bytes(jpeg))


def artefacts_of(folder: Path) -> list[Artefact]:
    """The regular files below ``folder`` with size and hash, by path; links are left out.

    Raises:
        MegasamError: ``too_many_results``.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(Artefact(path.relative_to(folder).as_posix(), path.stat().st_size, digest))
    if len(found) > MAX_ARTEFACTS:
        raise MegasamError(
            "too_many_results", f"The solve wrote {len(found)} files; the limit is {MAX_ARTEFACTS}."
        )
    return found


def solve(
    channel: Channel, function: str, start: dict, shelf: NetworkShelf | None
) -> tuple[dict, bool]:
    """Run one job.

    Returns:
        what to send when it has ended, and whether the process is none the worse for it.
    """
    try:
        print_to(start["log"])
        logging.basicConfig(level=logging.WARNING, format=WORKER_FORMAT)
        logging.getLogger("megasam_server").setLevel(logging.INFO)
        # Files that a library drops where it stands belong to the scratch.
        os.chdir(start["work_dir"])
        from megasam_shared.settings import SolveSettings

        from megasam_server.pipeline.job import SolveJob
        from megasam_server.service.media_roots import check_still_below_roots

        module, _, name = function.partition(":")
        run_job = getattr(importlib.import_module(module), name)
        job = SolveJob(
            plate=Path(start["plate"]),
            masks=Path(start["masks"]) if start["masks"] else None,
            settings=SolveSettings.from_map(start["settings"]),
            work_dir=Path(start["work_dir"]),
            results_dir=Path(start["results_dir"]),
            cache_dir=Path(start["cache_dir"]),
            shelf=shelf,
        )
        check_still_below_roots([job.plate, job.masks], job.work_dir.parent)
        result = run_job(job, ReportedProgress(channel))
        found = [[a.path, a.size, a.sha256] for a in artefacts_of(job.results_dir)]
        return {"kind": "done", "result": result, "artefacts": found}, True
    except MegasamError as error:
        log_traceback()
        return _failed(error), error.code not in _SHORT_OF_MEMORY
    except MemoryError:
        log_traceback()
        error = MegasamError(
            "out_of_memory",
            "The solve needed more memory than the server has.",
            "Use a lower preset, or solve a part of the plate with a frame range.",
        )
        return _failed(error), False
    except Exception as error:
        log_traceback()
        if isinstance(error, OSError) and is_full(error):
            return _failed(disk_full("the solve was stopped")), False
        unforeseen = MegasamError(
            "internal_error",
            f"The solver failed in a way nobody foresaw: {type(error).__name__}: {error}",
            f"Please report this; the details are on the server in {start['log']}.",
        )
        return _failed(unforeseen), False


def _failed(error: MegasamError) -> dict:
    return {"kind": "failed", **error.to_map()}


def print_to(log: str) -> None:
    """Send what this process prints, and what libraries print past Python, to a file."""
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    os.close(opened)


def log_traceback() -> None:
    # On a full disk the log takes nothing; the report to the server matters more.
    with contextlib.suppress(OSError):
        traceback.print_exc()


def load_ahead(function: str) -> None:
    """Import the solver while there is nothing to do, and let it prepare itself. What goes wrong will
    go wrong again when the job comes, and is reported then."""
    with contextlib.suppress(Exception):
        module = importlib.import_module(function.partition(":")[0])
        getattr(module, "prepare", lambda: None)()


def main() -> None:
    channel = Channel()
    jobs: queue.SimpleQueue[dict] = queue.SimpleQueue()

    def listen() -> None:
        try:
            channel.receive_until_closed(jobs.put)
        finally:
            end_with_children()

    threading.Thread(target=listen, name="server-pipe", daemon=True).start()
    channel.send("ready")
    load_ahead(sys.argv[1])
    between = BetweenJobs()
    shelf = None
    # The server ends this process when it wants no more of it.
    while True:
        start = jobs.get()
        if start.get("stays") and shelf is None:
            shelf = NetworkShelf()
        report, is_well = solve(channel, sys.argv[1], start, shelf)
        goes_on = bool(is_well and start.get("stays") and shelf)
        channel.send(**report, goes_on=goes_on)
        if goes_on:
            why_not = between.clean_up(Path(start["work_dir"]).parent, shelf)
            channel.send("rested", why_not=why_not)
        else:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()


def end_with_children() -> None:
    """End this process and what it started, at once."""
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
