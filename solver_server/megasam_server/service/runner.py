"""Takes jobs from the queue, one after the other, and lets a worker process solve each.

Runs in the server's thread; a worker's own threads reach it through ``call_soon``. Every job gets
a fresh process, started ahead, so nothing of one job (memory, GPU, globals) reaches the next.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import MAX_RESULT_BYTES, Artefact, ErrorInfo, JobChanged, Result
from megasam_shared.wire import decode, encode

from megasam_server.service.blobs import disk_full
from megasam_server.service.jobs import JobRecord, JobStore
from megasam_server.service.progress_tracker import ProgressTracker
from megasam_server.service.worker_process import WorkerProcess, describe_exit

_log = logging.getLogger(__name__)

_MOST_FAILED_STARTS = 3
_RESTART_AFTER = (0.0, 0.5, 2.0, 10.0)

Publish = Callable[[str, Any], None]
"""Called with (job id, message) for the clients that watch the job."""


class JobRunner:
    """The one worker slot of a server.

    Args:
        jobs: the queue.
        job_function: ``module:function`` that workers run.
        call_soon: runs a function in the server's thread; may be called from any thread.
        in_background: runs a function in some thread, for work that takes long.
        publish: tells the clients that watch a job.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        jobs: JobStore,
        job_function: str,
        call_soon: Callable[[Callable[[], None]], None],
        in_background: Callable[[Callable[[], None]], Any],
        publish: Publish,
        clock: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._job_function = job_function
        self._call_soon = call_soon
        self._in_background = in_background
        self._publish = publish
        self._clock = clock
        self._worker: WorkerProcess | None = None
        self._ready = False
        self._failed_starts = 0
        self._restart_at: float | None = None
        self._current: JobRecord | None = None
        self._tracker: ProgressTracker | None = None
        # Killed workers that are not gone yet, with what to do when they are.
        self._dying: dict[WorkerProcess, Callable[[], None]] = {}
        self._closing = False

    def open(self) -> None:
        """Look after the jobs of a server that died, and start the first worker."""
        for record in self._jobs.recover():
            self._end(
                record,
                MegasamError(
                    "server_died",
                    f"The solver server went down {record.attempts} times while it ran this job.",
                    "Look at the server's log and memory, then submit the job again.",
                ),
            )
        self._start_worker()

    def wake(self) -> None:
        """Start the next job if there is one and a worker is free."""
        # The next solve may need the memory that a killed one still holds.
        if self._current is not None or not self._ready or self._dying or self._closing:
            return
        record = self._jobs.next_queued()
        if record is None:
            return
        folder = self._jobs.folder_of(record.id)
        try:
            folder.make_ready()
        except OSError as error:
            reason = f"The server cannot write to its state folder: {error.strerror}."
            self._end(record, MegasamError("server_disk_full", reason, "Free space there."))
            self._call_soon(self.wake)
            return
        assert self._worker is not None
        self._jobs.start(record.id)
        self._current = record
        self._tracker = ProgressTracker(record.id, self._clock())
        _log.info("job %s starts in process %d", record.id, self._worker.pid)
        self._worker.start_job(
            {
                "plate": record.plate,
                "masks": record.masks,
                "settings": record.settings,
                "work_dir": str(folder.work),
                "results_dir": str(folder.results),
                "log": str(folder.log),
            }
        )
        self._publish(record.id, JobChanged(0, self._jobs.info(record.id)))

    def cancel(self, job: str) -> None:
        """Stop a job, queued or running; one that is over stays as it is.

        Raises:
            MegasamError: ``job_unknown``.
        """
        record = self._jobs.get(job)
        if record.finished is not None:
            return
        self._finish(record, Result(0, job, "cancelled", {}, []))

    def tick(self) -> None:
        """Send the progress that is due and start a worker that is due."""
        now = self._clock()
        if self._tracker is not None and self._tracker.is_due(now):
            message = self._tracker.message(now)
            self._publish(message.job, message)
        if self._restart_at is not None and now >= self._restart_at and not self._closing:
            self._start_worker()

    def close(self) -> None:
        """Kill the worker and put its job back into the queue for the next server."""
        self._closing = True
        if self._current is not None:
            self._jobs.put_back(self._current.id)
            self._current = self._tracker = None
        workers = [*self._dying, *([self._worker] if self._worker else [])]
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(timeout=5)

    # --- worker

    def _start_worker(self) -> None:
        self._restart_at = None
        self._ready = False
        try:
            self._worker = WorkerProcess(
                self._job_function,
                lambda w, m: self._call_soon(lambda: self._on_message(w, m)),
                lambda w, c: self._call_soon(lambda: self._on_exit(w, c)),
            )
        except OSError as error:
            _log.error("no worker process could be started: %s", error)
            self._worker = None
            self._worker_did_not_start(str(error))

    def _on_message(self, worker: WorkerProcess, content: Any) -> None:
        if worker is not self._worker or not isinstance(content, dict):
            return
        kind = content.get("kind")
        if kind == "ready":
            self._ready = True
            self._failed_starts = 0
            self.wake()
            return
        if self._current is None or self._tracker is None:
            return
        if kind == "progress":
            self._tracker.update(
                content["stage"], content["done"], content["total"], content["note"][:500]
            )
        elif kind == "skip":
            self._tracker.skip(content["stage"])
        elif kind == "preview":
            self._tracker.preview(content["frame"], content["jpeg"])
        elif kind == "done":
            artefacts = [Artefact(*entry) for entry in content["artefacts"]]
            self._finish_done(self._current, content["result"], artefacts)
        elif kind == "failed":
            self._end(self._current, MegasamError.from_map(content))

    def _on_exit(self, worker: WorkerProcess, code: int) -> None:
        if self._closing:
            return
        if worker in self._dying:
            self._in_background(self._dying.pop(worker))
            self.wake()
            return
        if worker is not self._worker:
            return
        self._worker = None
        was_ready, self._ready = self._ready, False
        _log.warning("worker process %d %s", worker.pid, describe_exit(code))
        if self._current is not None:
            folder = self._jobs.folder_of(self._current.id)
            self._end(
                self._current,
                MegasamError(
                    "worker_died",
                    f"The process that solved this job {describe_exit(code)}.",
                    "Try a lower preset or a shorter frame range; details are on the server in"
                    f" {folder.log}.",
                ),
            )
        if was_ready:
            self._start_worker()
        else:
            self._worker_did_not_start(describe_exit(code))

    def _worker_did_not_start(self, why: str) -> None:
        self._failed_starts += 1
        pause = _RESTART_AFTER[min(self._failed_starts, len(_RESTART_AFTER) - 1)]
        self._restart_at = self._clock() + pause
        if self._failed_starts < _MOST_FAILED_STARTS:
            return
        while (record := self._jobs.next_queued()) is not None:
            self._end(
                record,
                MegasamError(
                    "worker_cannot_start",
                    f"The server cannot start a process to solve in: it {why}.",
                    "Run 'megasam doctor' on the server's machine.",
                ),
            )

    # --- ends of jobs

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
            _log.exception("job %s returned a result that cannot be sent", record.id)
            self._end(
                record,
                MegasamError(
                    "internal_error",
                    f"The solver returned something that cannot be sent: {error}",
                    "Please report this.",
                ),
            )
            return
        self._finish(record, message)

    def _end(self, record: JobRecord, error: MegasamError) -> None:
        _log.warning("job %s failed: %s: %s", record.id, error.code, error)
        self._finish(record, Result(0, record.id, "failed", {}, [], ErrorInfo.of(error)))

    def _finish(self, record: JobRecord, result: Result) -> None:
        try:
            self._jobs.finish(result)
        except (OSError, sqlite3.Error) as error:
            _log.error("the end of job %s could not be written: %s", record.id, error)
            full = disk_full("the end of the job could not be written")
            result = Result(0, record.id, "failed", {}, [], ErrorInfo.of(full))
        _log.info("job %s is %s", record.id, result.state)
        clean = partial(self._jobs.folder_of(record.id).clean, result.state == "done")
        if self._current is not None and self._current.id == record.id:
            if self._tracker is not None and result.state == "done":
                self._publish(record.id, self._tracker.message(self._clock()))
            self._current = self._tracker = None
            self._retire_worker(clean)
        else:
            self._in_background(clean)
        self._publish(record.id, JobChanged(0, self._jobs.info(record.id)))
        self._publish(record.id, result)

    def _retire_worker(self, clean: Callable[[], None]) -> None:
        """Replace the worker; ``clean`` runs when it is gone."""
        if self._worker is None:
            self._in_background(clean)
            return
        self._dying[self._worker] = clean
        self._worker.kill()
        self._start_worker()
