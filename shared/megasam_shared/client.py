"""The client of a solver server: for the Maya plug-in, the standalone window and the command line.

Three ways to use it, which can be mixed:

- blocking: ``upload``, ``submit``, ``wait``, ``fetch`` ... each with a timeout or progress call;
- polling: ``poll()`` from a timer returns what happened since; ``in_background`` runs one of the
  blocking calls without blocking the caller;
- callbacks: ``on_event`` is called in the connection's thread instead of filling ``poll()``.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from megasam_shared.connection import Connection, ConnectionChanged
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import (
    DEFAULT_PRIORITY,
    Artefact,
    AskStatus,
    Attach,
    Cancel,
    CheckpointInfo,
    Checkpoints,
    Error,
    JobChanged,
    JobInfo,
    Jobs,
    ListCheckpoints,
    ListJobs,
    Media,
    MediaFile,
    Progress,
    Result,
    ServerStatus,
    Submit,
    Welcome,
)
from megasam_shared.server_keys import ClientKeys
from megasam_shared.settings import SolveSettings
from megasam_shared.transfer import HashCache, OnBytes, fetch_artefacts, upload_files

_KEPT_EVENTS = 512
_WAIT_STEP = 0.2

_Returned = TypeVar("_Returned")


def new_submission() -> str:
    """A number for one solve: however often it is submitted with it, the server has one job."""
    return secrets.token_hex(16)


class SolverClient:
    """A connection to one solver server.

    Args:
        address: ZeroMQ endpoint, e.g. ``tcp://127.0.0.1:5599``.
        name: what the server's log calls this client.
        keys: for an encrypted server, see :func:`megasam_shared.server_keys.keys_for`.
        on_event: called with each event in the connection's thread; it must be quick and must not
            call blocking methods. Without it, events wait for :meth:`poll`, the newest 512.
        patience: seconds that uploads, submissions and fetches wait for a lost server before they
            fail; they go on where they were.
        hash_cache: file that remembers hashes of plates between runs; None remembers only
            while this client lives.

    Events are the messages Progress, JobChanged, Result and Error of
    :mod:`megasam_shared.protocol`, and ConnectionChanged. Construction does not
    wait for the server.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str = "",
        keys: ClientKeys | None = None,
        on_event: Callable[[Any], None] | None = None,
        patience: float = 60.0,
        hash_cache: Path | None = None,
    ) -> None:
        self._patience = patience
        self._events: deque[Any] = deque(maxlen=_KEPT_EVENTS)
        self._hashes = HashCache(hash_cache)
        self._hash_lock = threading.Lock()
        self._connection = Connection(address, name, keys)
        self._connection.add_listener(on_event or self._events.append)

    def __enter__(self) -> SolverClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """The server answers."""
        return self._connection.connected

    def connect(self, timeout: float = 5.0) -> Welcome:
        """Wait for the server.

        Raises:
            MegasamError: ``server_not_reachable``, ``server_refuses_key``, ``server_handshake_failed``, or
                ``protocol_mismatch`` naming both versions.
        """
        return self._connection.wait_until_connected(timeout)

    def close(self) -> None:
        """Free thread and sockets; calls that wait fail with ``client_closed``."""
        self._connection.close()

    def poll(self) -> list[Any]:
        """The events since the last call; never waits."""
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def in_background(
        self, function: Callable[..., _Returned], *args: Any, **kwargs: Any
    ) -> Future[_Returned]:
        """Run a blocking call (e.g. ``client.upload``) in a thread of its own."""
        future: Future = Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="megasam-transfer", daemon=True).start()
        return future

    def upload(self, files: Sequence[Path], on_bytes: OnBytes | None = None) -> Media:
        """Bring the files of a plate or mask to the server; see :func:`upload_files`."""
        with self._hash_lock:
            entries: list[MediaFile] = self.through_cuts(
                lambda: upload_files(self._connection, files, self._hashes, on_bytes)
            )
        return Media(files=entries)

    def submit(
        self,
        plate: Media,
        settings: SolveSettings,
        *,
        masks: Media | None = None,
        name: str = "",
        priority: int = DEFAULT_PRIORITY,
        submission: str = "",
        timeout: float = 60.0,
    ) -> JobInfo:
        """Queue a solve.

        Args:
            plate: what :meth:`upload` returned, or ``Media(path=...)`` for a plate below a media
                root that the server shares with this machine.
            masks: the same for pixels to leave out.
            priority: 0 to 100, more is earlier; jobs of the same priority take turns by client.
            submission: of :func:`new_submission`, to submit the same solve again through another
                client, after a lost answer: it stays one job. Empty for a new solve.

        Raises:
            MegasamError: why the server refuses (``queue_full``, ``upload_missing``,
                ``path_not_allowed``, ``setting_out_of_range`` ...).
        """
        fields = {
            "submission": submission or new_submission(),
            "name": name[:255],
            "plate": plate,
            "masks": masks,
            "settings": settings.to_map(),
            "priority": priority,
        }
        answer: JobChanged = self.through_cuts(
            lambda: self._connection.request(Submit, timeout, **fields)
        )
        return answer.job

    def attach(self, job: str, timeout: float = 30.0) -> JobInfo | Result:
        """Receive the events of a job again; its Result when it is over already."""
        answer = self._connection.request(Attach, timeout, job=job)
        return answer.job if isinstance(answer, JobChanged) else answer

    def cancel(self, job: str, timeout: float = 30.0) -> JobInfo:
        """Stop a job; one that is over stays as it is."""
        answer: JobChanged = self._connection.request(Cancel, timeout, job=job)
        return answer.job

    def list_jobs(self, timeout: float = 30.0) -> list[JobInfo]:
        """All jobs that the server remembers, newest first."""
        answer: Jobs = self._connection.request(ListJobs, timeout)
        return answer.jobs

    def list_checkpoints(self, timeout: float = 30.0) -> list[CheckpointInfo]:
        """Every checkpoint of the server's table: whether it is there, and its licence."""
        answer: Checkpoints = self._connection.request(ListCheckpoints, timeout)
        return answer.checkpoints

    def server_status(self, timeout: float = 30.0) -> ServerStatus:
        """How the server is: its queue, its running jobs, its GPUs, what it has counted."""
        return self._connection.request(AskStatus, timeout)

    def wait(
        self,
        job: str,
        on_event: Callable[[Progress | JobChanged | Error], None] | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Wait for the end of a job, in the calling thread.

        Args:
            on_event: called here with each Progress and JobChanged of the job, and with each Error
                that the server tells unasked, such as that it is about to stop.

        Raises:
            MegasamError: ``server_lost`` within 5 s of the server's death, or ``wait_timeout``.
                A failed job is no exception: look at ``state`` and ``error`` of the result.
        """
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._connection.add_listener(inbox.put)
        try:
            answer = self._connection.request(Attach, job=job)
            while True:
                if isinstance(answer, Result) and answer.job == job:
                    return answer
                self._pass_on(answer, job, on_event)
                answer = None
                while answer is None:
                    if deadline is not None and time.monotonic() > deadline:
                        raise MegasamError(
                            "wait_timeout", f"Job {job} is not over after {timeout:g} s."
                        )
                    # Short waits: on Windows Ctrl-C does not end a long one.
                    with contextlib.suppress(queue.Empty):
                        answer = inbox.get(timeout=_WAIT_STEP)
        finally:
            self._connection.remove_listener(inbox.put)

    @staticmethod
    def _pass_on(event: Any, job: str, on_event: Callable[[Any], None] | None) -> None:
        if isinstance(event, ConnectionChanged) and event.error is not None:
            raise event.error
        concerns_job = (
            (isinstance(event, Progress) and event.job == job)
            or (isinstance(event, JobChanged) and event.job.job == job)
            or isinstance(event, Error)
        )
        if concerns_job and on_event is not None:
            on_event(event)

    def fetch(
        self,
        job: str,
        artefacts: Sequence[Artefact],
        folder: Path,
        on_bytes: OnBytes | None = None,
    ) -> list[Path]:
        """Bring result files to ``folder``; see :func:`fetch_artefacts`."""
        return self.through_cuts(
            lambda: fetch_artefacts(self._connection, job, artefacts, folder, on_bytes)
        )

    def through_cuts(self, step: Callable[[], _Returned]) -> _Returned:
        """Call ``step``, again whenever it lost the server and that came back in time.

        Raises:
            MegasamError: what ``step`` raised; ``server_lost`` when the patience was not enough.
        """
        while True:
            try:
                return step()
            except MegasamError as error:
                if not self._connection.survives(error, self._patience):
                    raise
