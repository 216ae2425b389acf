"""Takes jobs from the queue, lets the executor solve them, and sees each to its end.

Runs in the server's thread. A job ends once: with a result, an error, a timeout or somebody's
cancel. Only the death of its worker, which is nobody's intention, is tried again, and only once.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import MAX_RESULT_BYTES, Artefact, ErrorInfo, JobChanged, Result
from megasam_shared.wire import decode, encode

from megasam_server.pipeline.stage_cache import KEPT_STAGES
from megasam_server.service import counters as names
from megasam_server.service.counters import Counters
from megasam_server.service.executor import Executor, Task
from megasam_server.service.jobs import MOST_ATTEMPTS, JobRecord, JobStore
from megasam_server.service.progress_tracker import ProgressTracker
from megasam_server.service.server_log import JobLog
from megasam_server.service.spare_room import disk_full
from megasam_server.service.worker_log import WorkerLog

_log = logging.getLogger(__name__)

_WRITE_AGAIN_AFTER = 1.0
_PASS_ON_LOGS_EVERY = 0.5

Publish = Callable[[str, Any], None]
"""Called with (job id, message) for the clients that watch the job."""


@dataclass
class Run:
    """A job that a worker has.

    Attributes:
        where: the worker, for people.
        started: monotonic seconds.
    """

    record: JobRecord
    tracker: ProgressTracker
    log: WorkerLog
    started: float
    where: str = ""


class JobRunner:
    """The jobs that run.

    Args:
        jobs: the queue.
        executor: where they run.
        cache: folder for stage outputs that other attempts and jobs may use again.
        timeout: seconds that one attempt may take; None for ever.
        in_background: runs a function in some thread, for work that takes long.
        publish: tells the clients that watch a job.
        counters: count the ends of jobs, and their second attempts.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        jobs: JobStore,
        executor: Executor,
        cache: Path,
        timeout: float | None,
        in_background: Callable[[Callable[[], None]], Any],
        publish: Publish,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._executor = executor
        self._cache = cache
        self._timeout = timeout
        self._in_background = in_background
        self._publish = publish
        self._counters = counters
        self._clock = clock
        self._runs: dict[str, Run] = {}
        # Attempts that were stopped and are not gone yet, with what to do when they are.
        self._ending: dict[str, Callable[[], None]] = {}
        # Ends of jobs that a full disk did not take.
        self._unwritten: dict[str, Result] = {}
        self._write_again_at = 0.0
        self._pass_on_logs_at = 0.0
        self._draining = False
        self._closing = False

    @property
    def runs(self) -> list[Run]:
        """The jobs that workers have."""
        return list(self._runs.values())

    @property
    def is_idle(self) -> bool:
        """No job runs, and nothing of one is left."""
        return not self._runs and not self._ending

    def open(self) -> None:
        """Look after the jobs of a server that died, and start the first workers."""
        for record in self._jobs.recover():
            self._fail(
                record,
                MegasamError(
                    "server_died",
                    f"The solver server went down, or lost its worker, {record.attempts} times"
                    " while it ran this job.",
                    "Look at the server's log and memory, then submit the job again.",
                ),
            )
        self._executor.open(self)

    def wake(self) -> None:
        """Start the jobs whose turn it is, as long as there is room."""
        while not (self._closing or self._draining) and self._executor.has_room():
            record = self._jobs.next_queued()
            if record is None:
                return
            self._start(record)

    def cancel(self, job: str) -> None:
        """Stop a job, queued or running; one that is over stays as it is.

        Raises:
            MegasamError: ``job_unknown``.
        """
        record = self._jobs.get(job)
        if record.finished is None:
            self._finish(record, Result(0, job, "cancelled", {}, []))

    def tick(self) -> None:
        """Send the progress that is due, end jobs that take too long."""
        now = self._clock()
        for run in list(self._runs.values()):
            if run.tracker.is_due(now):
                self._publish(run.record.id, run.tracker.message(now))
            if self._timeout is not None and now - run.started > self._timeout:
                self._fail(run.record, _timed_out(self._timeout))
        if self._unwritten and now >= self._write_again_at:
            self._write_again_at = now + _WRITE_AGAIN_AFTER
            for result in list(self._unwritten.values()):
                self._write_end(result)
        if now >= self._pass_on_logs_at:
            self._pass_on_logs_at = now + _PASS_ON_LOGS_EVERY
            for run in self._runs.values():
                self._in_background(run.log.pass_on)
        self._executor.tick(now)

    def seconds_to_next_report(self) -> float:
        """When :meth:`tick` will have something to send, if no worker says anything."""
        now = self._clock()
        return min((run.tracker.due_in(now) for run in self._runs.values()), default=1.0)

    def drain(self) -> None:
        """Start no job any more. A job that runs goes on until it is over, or until the end of a
        stage whose output is kept: then it is queued again, for the next server to go on there."""
        self._draining = True
        for run in self.runs:
            if not run.tracker.stage:
                self._put_back(run)
        self._executor.drain()

    def close(self) -> None:
        """End the workers and put their jobs back into the queue for the next server."""
        self._closing = True
        for job in self._runs:
            try:
                self._jobs.put_back(job)
            except MegasamError as error:
                JobLog(_log, job).error("it could not be put back: %s", error)
        self._executor.close()
        for run in self._runs.values():
            run.log.pass_on(is_over=True)
        self._runs.clear()

    # --- what the executor tells

    def on_room(self) -> None:
        self.wake()

    def on_report(self, job: str, report: dict) -> None:
        run = self._runs.get(job)
        if run is None:
            return
        kind = report.get("kind")
        before = run.tracker.stage
        if (
            self._draining
            and kind in ("progress", "skip")
            and report["stage"] != before
            and before in KEPT_STAGES
        ):
            self._put_back(run)
        elif kind == "progress":
            note = report["note"][:500]
            run.tracker.update(report["stage"], report["done"], report["total"], note)
        elif kind == "skip":
            run.tracker.skip(report["stage"])
        elif kind == "preview":
            run.tracker.preview(report["frame"], report["jpeg"])
        elif kind == "done":
            artefacts = [Artefact(*entry) for entry in report["artefacts"]]
            self._finish_done(run.record, report["result"], artefacts)
        elif kind == "failed":
            self._fail(run.record, MegasamError.from_map(report))

    def on_gone(self, job: str, how: str) -> None:
        then = self._ending.pop(job, None)
        if then is not None:
            if self._draining:
                then()  # the server may be gone before the background comes to it
            else:
                self._in_background(then)
            return
        run = self._runs.get(job)
        if run is None:
            return
        record = self._jobs.get(job)
        if record.attempts < MOST_ATTEMPTS:
            self._retry(record, how)
            return
        log = self._jobs.folder_of(job).log
        self._fail(
            record,
            MegasamError(
                "worker_died",
                f"The process that solved this job {how}, and so it went the first time.",
                f"Try a lower preset or a shorter frame range; details are on the server in {log}.",
            ),
        )

    def on_unable(self, why: str) -> None:
        while (record := self._jobs.next_queued()) is not None:
            self._fail(
                record,
                MegasamError(
                    "worker_cannot_start",
                    f"The server cannot start a process to solve in: it {why}.",
                    "Run 'megasam doctor' on the server's machine.",
                ),
            )

    # --- starts and ends

    def _start(self, record: JobRecord) -> None:
        folder = self._jobs.folder_of(record.id)
        try:
            folder.make_ready()
            self._jobs.start(record.id)
        except OSError as error:
            reason = f"The server cannot write to its state folder: {error.strerror}."
            self._fail(record, MegasamError("server_disk_full", reason, "Free space there."))
            return
        except MegasamError as error:
            self._fail(record, error)
            return
        now = self._clock()
        tracker, log = ProgressTracker(record.id, now), WorkerLog(folder.log, record.id)
        run = self._runs[record.id] = Run(record, tracker, log, now)
        run.where = self._executor.start(
            Task(
                job=record.id,
                owner=record.owner,
                plate=Path(record.plate),
                masks=None if record.masks is None else Path(record.masks),
                settings=record.settings,
                work_dir=folder.work,
                results_dir=folder.results,
                cache_dir=self._cache,
                log=folder.log,
            )
        )
        JobLog(_log, record.id).info("starts on %s", run.where)
        self._publish(record.id, JobChanged(0, self._jobs.info(record.id)))

    def _retry(self, record: JobRecord, how: str) -> None:
        JobLog(_log, record.id).warning("is tried again: its worker %s", how)
        self._counters.add(names.RETRIED_JOBS)
        self._in_background(partial(self._runs.pop(record.id).log.pass_on, True))
        try:
            self._jobs.retry(record.id)
        except MegasamError as error:
            self._fail(record, error)
            return
        self._publish(record.id, JobChanged(0, self._jobs.info(record.id)))

    def _finish_done(self, record: JobRecord, result: Any, artefacts: list[Artefact]) -> None:
        try:
            message = Result(0, record.id, "done", result, artefacts)
            try:
                fits = len(encode(message)) <= MAX_RESULT_BYTES
            except MegasamError:
                fits = False
            if not fits:
                slim = {key: value for key, value in result.items() if key != "extrinsics"}
                message = Result(0, record.id, "done", slim, artefacts)
            decode(encode(message))
        except (MegasamError, TypeError, AttributeError, ValueError) as error:
            JobLog(_log, record.id).exception("it returned a result that cannot be sent")
            self._fail(
                record,
                MegasamError(
                    "internal_error",
                    f"The solver returned something that cannot be sent: {error}",
                    "Please report this.",
                ),
            )
            return
        self._finish(record, message)

    def _fail(self, record: JobRecord, error: MegasamError) -> None:
        JobLog(_log, record.id).warning("failed: %s: %s", error.code, error)
        self._finish(record, Result(0, record.id, "failed", {}, [], ErrorInfo.of(error)))

    def _finish(self, record: JobRecord, result: Result) -> None:
        result = self._write_end(result)
        JobLog(_log, record.id).info("is %s", result.state)
        self._counters.add(names.ENDED_JOBS, label=result.state)
        clean = partial(self._jobs.folder_of(record.id).clean, result.state == "done")
        run = self._runs.pop(record.id, None)
        if run is not None:
            if result.state == "done":
                self._publish(record.id, run.tracker.message(self._clock()))
            self._stop(run, clean)
        elif record.id in self._ending:  # it was put back, and its worker is not gone yet
            self._ending[record.id] = partial(_both, self._ending[record.id], clean)
        else:
            self._in_background(clean)
        self._publish(record.id, JobChanged(0, self._jobs.info(record.id)))
        self._publish(record.id, result)

    def _put_back(self, run: Run) -> None:
        record = run.record
        try:
            self._jobs.put_back(record.id)
        except MegasamError as error:
            JobLog(_log, record.id).error("it could not be put back and goes on: %s", error)
            return
        JobLog(_log, record.id).info("is queued again, after %r", run.tracker.stage)
        del self._runs[record.id]
        self._stop(run)
        self._publish(record.id, JobChanged(0, self._jobs.info(record.id)))

    def _stop(self, run: Run, then: Callable[[], None] = lambda: None) -> None:
        """End what runs; the last of its log is passed on before ``then``."""

        def gone() -> None:
            run.log.pass_on(is_over=True)
            then()

        self._ending[run.record.id] = gone
        self._executor.stop(run.record.id)

    def _write_end(self, result: Result) -> Result:
        """Record the end of a job, or that there was no room to; returns what was recorded.

        As long as not even that can be written, it is tried again.
        """
        self._unwritten.pop(result.job, None)
        try:
            self._jobs.finish(result)
            return result
        except (MegasamError, OSError, sqlite3.Error) as error:
            JobLog(_log, result.job).error("its end could not be written: %s", error)
        failed = Result(0, result.job, "failed", {}, [], ErrorInfo.of(disk_full("no room")))
        self._unwritten[result.job] = failed
        return failed


def _both(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()


def _timed_out(seconds: float) -> MegasamError:
    return MegasamError(
        "job_timeout",
        f"The solve was ended after {seconds:g} s, the longest that this server lets a job run.",
        "Solve fewer frames or with a lower preset, or ask for a longer job timeout on the server.",
    )
