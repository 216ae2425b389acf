"""One plain thread between a dialog and a solver server.

The dialog's thread calls the public methods, which only put work into a queue and return at once,
and drains events with a timer. Everything else happens in the session's thread: it owns the client,
whose answers come back into the same queue, so that no state is touched by two threads. Closing
never waits for a network.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from megasam_shared.client import SolverClient, new_submission
from megasam_shared.connection import ConnectionChanged
from megasam_shared.errors import MegasamError
from megasam_shared.plate_files import find_plate_files
from megasam_shared.protocol import (
    FINAL_STATES,
    Error,
    JobChanged,
    JobInfo,
    Media,
    Progress,
    Result,
)
from megasam_shared.server_keys import full_address, keys_for
from megasam_shared.transfer import not_writable

from megasam_maya.job_history import JobHistory, JobRecord
from megasam_maya.plate import inspect_plate
from megasam_maya.result_files import QUALITY
from megasam_maya.session_events import (
    Cancelling,
    ConnectionState,
    Fetching,
    JobMoved,
    JobProgress,
    JobsListed,
    PlateInspected,
    ResultRead,
    ServerNotice,
    SessionEvent,
    SolveEnded,
    SolveRequest,
    StatusChanged,
    Uploading,
)
from megasam_maya.solve_quality import read_quality

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 4.0
_STATUS_EVERY = 5.0
# Seconds that uploads and fetches wait for a server that was restarted.
_PATIENCE = 300.0


class _Task:
    """The solve that the dialog shows: asked for, running or being fetched."""

    def __init__(self, request: SolveRequest | None, record: JobRecord | None) -> None:
        self.request = request
        self.record = record
        # The same however often it is submitted: Reconnect must not make a second job.
        self.submission = new_submission()
        self.cancelled = threading.Event()
        self.fetching = False


class _Cancelled(Exception):
    """Ends an upload or a fetch that nobody wants any more."""


class Session:
    """A dialog's connection to a solver server.

    Args:
        history: where submitted jobs are written down.
        name: what the server's log calls this client.
        hash_cache: file that remembers hashes of plates.
    """

    def __init__(
        self,
        history: JobHistory,
        name: str = "MegaSAM dialog",
        hash_cache: Path | None = None,
    ) -> None:
        self._history = history
        self._name = name
        self._hash_cache = hash_cache
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[SessionEvent] = queue.SimpleQueue()
        self._client: SolverClient | None = None
        self._address = ""
        self._task: _Task | None = None
        self._asked_status = 0.0
        self._running = True
        self._ends_when_submitted = False
        self._thread = threading.Thread(target=self._run, name="megasam-session", daemon=True)
        self._thread.start()

    # --- called from the dialog's thread; none of these waits

    @property
    def alive(self) -> bool:
        """The thread runs."""
        return self._thread.is_alive()

    def drain(self) -> list[SessionEvent]:
        """The events since the last call. Of the progress of a job only the newest is kept, with
        the newest preview."""
        events: list[SessionEvent] = []
        with contextlib.suppress(queue.Empty):
            while True:
                _append(events, self._events.get_nowait())
        return events

    def connect(self, address: str) -> None:
        """Talk to the server at ``address`` from now on; the same again for a new attempt."""
        self._inbox.put(lambda: self._connect(address))

    def inspect_plate(self, path: Path) -> None:
        """Look at a plate; answered by PlateInspected."""
        threading.Thread(
            target=self._inspect, args=(path,), name="megasam-inspect", daemon=True
        ).start()

    def read_result(self, folder: Path) -> None:
        """Read the quality of a solve; answered by ResultRead."""
        threading.Thread(
            target=self._read_result, args=(folder,), name="megasam-read", daemon=True
        ).start()

    def solve(self, request: SolveRequest) -> None:
        """Upload, submit, follow and fetch; ends with SolveEnded."""
        self._inbox.put(lambda: self._solve(_Task(request, None)))

    def attach(self, record: JobRecord) -> None:
        """Follow a job that was submitted before, and fetch its results; ends with SolveEnded."""
        self._inbox.put(lambda: self._follow(_Task(None, record)))

    def cancel(self) -> None:
        """Stop the solve; Cancelling is told at once, SolveEnded when it is over."""
        self._inbox.put(self._cancel)

    def list_jobs(self) -> None:
        """Answered by JobsListed, when the server is there."""
        self._inbox.put(self._list_jobs)

    def close(self) -> None:
        """Let the session end by itself: at once, or when an upload is submitted. The job goes on."""
        self._inbox.put(self._end_when_submitted)

    def join(self, timeout: float) -> None:
        """Wait until a closed session has ended, at most ``timeout`` s."""
        self._thread.join(timeout)

    def stop(self, timeout: float = 2.0) -> None:
        """End now, whatever it does; for the end of the program. The job goes on."""
        self._inbox.put(self._end)
        self._thread.join(timeout)

    # --- everything below runs in the session's thread

    def _run(self) -> None:
        while self._running:
            try:
                with contextlib.suppress(queue.Empty):
                    self._inbox.get(timeout=1.0)()
                self._ask_status()
            except Exception as error:
                _log.exception("The session failed")
                self._tell(ServerNotice(_unexpected(error)))
        self._disconnect()

    def _tell(self, event: SessionEvent) -> None:
        self._events.put(event)

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancelled.set()
        self._running = False

    def _end_when_submitted(self) -> None:
        if self._is_submitting(self._task):
            self._ends_when_submitted = True
        else:
            self._end()

    @staticmethod
    def _is_submitting(task: _Task | None) -> bool:
        return task is not None and task.record is None and not task.cancelled.is_set()

    def _connect(self, address: str) -> None:
        self._disconnect()
        try:
            self._address = full_address(address)
            keys = keys_for(self._address)
            self._tell(ConnectionState("connecting", self._address))
            self._client = client = SolverClient(
                self._address,
                name=self._name,
                keys=keys,
                on_event=lambda event: self._inbox.put(lambda: self._hear(client, event)),
                patience=_PATIENCE,
                hash_cache=self._hash_cache,
            )
        except MegasamError as error:
            self._tell(ConnectionState("refused", address, error))
            return
        self._ask(client.connect, _CONNECT_TIMEOUT, failed=self._not_connected)
        task = self._task
        if task is not None:
            # What it had under way went with the old client.
            task.fetching = False
            if self._is_submitting(task):
                self._solve(task)

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _not_connected(self, error: MegasamError) -> None:
        waits = error.code in ("server_not_reachable", "server_handshake_failed")
        state = "unreachable" if waits else "refused"
        self._tell(ConnectionState(state, self._address, error))

    def _hear(self, client: SolverClient, event: Any) -> None:
        if client is not self._client:
            return
        if isinstance(event, ConnectionChanged):
            self._connection_changed(event)
        elif isinstance(event, Progress):
            if self._concerns(event.job):
                self._tell(JobProgress(event))
        elif isinstance(event, JobChanged):
            if self._concerns(event.job.job):
                self._job_moved(event.job)
        elif isinstance(event, Result):
            if self._concerns(event.job):
                self._job_ended(event)
        elif isinstance(event, Error):
            self._tell(ServerNotice(event.to_error()))

    def _concerns(self, job: str) -> bool:
        task = self._task
        return task is not None and task.record is not None and task.record.job == job

    def _connection_changed(self, event: ConnectionChanged) -> None:
        if not event.connected:
            refused = event.error is not None and event.error.code != "server_lost"
            self._tell(
                ConnectionState("refused" if refused else "lost", self._address, event.error)
            )
            return
        self._tell(ConnectionState("connected", self._address))
        self._asked_status = 0.0
        self._ask_status()
        self._list_jobs()
        task = self._task
        # What was on its way when the server went away goes on; uploads wait for it themselves.
        if task is not None and task.record is not None and not task.fetching:
            if task.cancelled.is_set():
                self._cancel_job(task)
            self._follow(task)

    def _ask_status(self) -> None:
        client = self._client
        now = time.monotonic()
        if client is None or not client.connected or now - self._asked_status < _STATUS_EVERY:
            return
        self._asked_status = now
        self._ask(client.server_status, then=lambda s: self._tell(StatusChanged(s)))

    def _list_jobs(self) -> None:
        if self._client is not None and self._client.connected:
            self._ask(self._client.list_jobs, then=lambda jobs: self._tell(JobsListed(jobs)))

    def _inspect(self, path: Path) -> None:
        try:
            self._tell(PlateInspected(path, inspect_plate(path)))
        except MegasamError as error:
            self._tell(PlateInspected(path, None, error))
        except OSError as error:
            problem = MegasamError(
                "plate_unreadable", f"{path} cannot be read: {error.strerror or error}."
            )
            self._tell(PlateInspected(path, None, problem))

    def _read_result(self, folder: Path) -> None:
        try:
            self._tell(ResultRead(folder, read_quality(folder)))
        except MegasamError as error:
            self._tell(ResultRead(folder, None, error))

    def _ask(
        self,
        call: Callable[..., Any],
        *arguments: Any,
        then: Callable[[Any], None] | None = None,
        failed: Callable[[MegasamError], None] | None = None,
    ) -> None:
        """Run a blocking call of the client in a thread of its own; what comes of it is handed on
        in the session's thread, unless the client was replaced meanwhile."""
        client = self._client
        assert client is not None

        def answered(future: Future) -> None:
            if client is not self._client:
                return
            error = future.exception()
            if isinstance(error, _Cancelled):
                return
            if error is not None:
                if failed is not None:
                    failed(error if isinstance(error, MegasamError) else _unexpected(error))
            elif then is not None:
                then(future.result())

        future = client.in_background(call, *arguments)
        future.add_done_callback(lambda f: self._inbox.put(lambda: answered(f)))

    # --- one solve

    def _solve(self, task: _Task) -> None:
        self._task = task
        client, request = self._client, task.request
        assert request is not None
        if client is None:
            self._fail(task, _no_server())
            return

        def on_bytes(done: int, total: int) -> None:
            if task.cancelled.is_set():
                raise _Cancelled
            self._tell(Uploading(done, total))

        def upload_and_submit() -> JobInfo:
            files = find_plate_files(request.plate, request.masks, request.settings)
            media = client.upload([*files.plate, *(files.masks or [])], on_bytes)
            if task.cancelled.is_set():
                raise _Cancelled
            plate = Media(files=media.files[: len(files.plate)])
            masks = None
            if files.masks is not None:
                masks = Media(files=media.files[len(files.plate) :])
            return client.submit(
                plate,
                request.settings,
                masks=masks,
                name=request.name,
                submission=task.submission,
            )

        self._ask(
            upload_and_submit,
            then=lambda job: self._submitted(task, job),
            failed=lambda error: self._fail(task, error),
        )

    def _submitted(self, task: _Task, job: JobInfo) -> None:
        request = task.request
        assert request is not None
        task.record = JobRecord(
            job=job.job,
            server=self._address,
            name=request.name,
            plate=str(request.plate),
            folder=str(request.folder),
            created=time.time(),
            state=job.state,
            values=request.values,
        )
        if task.cancelled.is_set():
            # Cancelled while the answer was on its way.
            self._cancel_job(task)
        else:
            self._history.add(task.record)
            self._job_moved(job)
            # A short job may be over before we knew its number: ask again what became of it.
            self._follow(task)
        if self._ends_when_submitted:
            self._end()

    def _follow(self, task: _Task) -> None:
        self._task = task
        record, client = task.record, self._client
        assert record is not None
        if (Path(record.folder) / QUALITY).exists():
            self._tell(SolveEnded(Path(record.folder), None, record))
            return
        if client is None or not client.connected:
            return  # asked for as soon as the server is there

        def attached(answer: JobInfo | Result) -> None:
            if task is not self._task:
                return
            if isinstance(answer, Result):
                self._job_ended(answer)
            else:
                self._job_moved(answer)

        self._ask(
            client.attach, record.job, then=attached, failed=lambda e: self._not_followed(task, e)
        )

    def _not_followed(self, task: _Task, error: MegasamError) -> None:
        # A lost server is told as such, and the job is asked for again when it is back.
        if error.code not in ("server_lost", "client_closed", "server_timeout"):
            self._fail(task, error)

    def _job_moved(self, job: JobInfo) -> None:
        task = self._task
        assert task is not None
        task.record = self._history.update(job.job, state=job.state) or task.record
        if job.state not in FINAL_STATES:
            self._tell(JobMoved(job, task.record))

    def _job_ended(self, result: Result) -> None:
        task = self._task
        assert task is not None and task.record is not None
        if task.fetching:
            return
        quality = result.result.get("quality")
        verdict = str(quality.get("verdict", "")) if isinstance(quality, dict) else ""
        task.record = replace(task.record, state=result.state, verdict=verdict)
        self._history.update(result.job, state=result.state, verdict=verdict)
        if result.state == "cancelled":
            self._fail(task, _job_cancelled())
        elif result.error is not None:
            self._fail(task, result.error.to_error())
        else:
            self._fetch(task, result)

    def _fetch(self, task: _Task, result: Result) -> None:
        client, record = self._client, task.record
        assert client is not None and record is not None
        task.fetching = True
        folder = Path(record.folder)
        partial = folder.with_name(folder.name + ".partial")

        def on_bytes(done: int, total: int) -> None:
            if task.cancelled.is_set():
                raise _Cancelled
            self._tell(Fetching(done, total))

        def fetch() -> None:
            try:
                partial.mkdir(parents=True, exist_ok=True)
                client.fetch(result.job, result.artefacts, partial, on_bytes)
                partial.rename(folder)
            except OSError as error:
                raise not_writable(folder, error) from None

        def fetched(_: None) -> None:
            task.record = self._history.update(record.job, state="fetched") or record
            self._finish(task, SolveEnded(folder, None, task.record))

        self._ask(fetch, then=fetched, failed=lambda error: self._fail(task, error))

    def _cancel(self) -> None:
        task = self._task
        if task is None:
            return
        task.cancelled.set()
        self._tell(Cancelling())
        if task.fetching and task.record is not None:
            folder = Path(task.record.folder)
            shutil.rmtree(folder.with_name(folder.name + ".partial"), ignore_errors=True)
            self._fail(task, _job_cancelled())
        elif task.record is None:
            self._fail(task, _job_cancelled())
        elif self._client is not None and self._client.connected:
            self._cancel_job(task)
        else:
            # Nobody can be told; the dialog is free for other work all the same.
            self._fail(task, _not_cancelled(task.record))

    def _cancel_job(self, task: _Task) -> None:
        client, record = self._client, task.record
        assert record is not None
        if client is not None and client.connected:
            # Its end is told by the result that follows.
            self._ask(client.cancel, record.job)

    def _fail(self, task: _Task, error: MegasamError) -> None:
        self._finish(task, SolveEnded(None, error, task.record))

    def _finish(self, task: _Task, ended: SolveEnded) -> None:
        if task is self._task:
            self._task = None
            self._tell(ended)
            self._asked_status = 0.0  # its queue is another one now
            if self._ends_when_submitted:
                self._end()


def _append(events: list[SessionEvent], event: SessionEvent) -> None:
    """Add an event; progress that follows progress of the same job takes its place."""
    last = events[-1] if events else None
    if isinstance(event, JobProgress) and isinstance(last, JobProgress):
        new, old = event.progress, last.progress
        if new.job == old.job:
            if not new.preview:
                new = replace(new, preview=old.preview, preview_frame=old.preview_frame)
            events[-1] = JobProgress(new)
            return
    if isinstance(event, Uploading | Fetching) and type(last) is type(event):
        events[-1] = event
        return
    events.append(event)


def _no_server() -> MegasamError:
    return MegasamError(
        "server_not_reachable", "There is no server.", "Enter its address and press Connect."
    )


def _not_cancelled(record: JobRecord) -> MegasamError:
    return MegasamError(
        "job_not_cancelled",
        f"The server at {record.server} does not answer: {record.name} may still run there.",
        "When it is back, open the job from Jobs and cancel it.",
    )


def _job_cancelled() -> MegasamError:
    return MegasamError("job_cancelled", "The solve was cancelled.")


def _unexpected(error: BaseException) -> MegasamError:
    return MegasamError(
        "unexpected_error",
        f"Something went wrong that nobody foresaw: {type(error).__name__}: {error}",
        "The log has the details; please report it.",
    )
