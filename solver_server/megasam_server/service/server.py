"""The solver server: one thread around a ROUTER socket that never waits for a disk or a solve."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import zmq
from megasam_shared import __version__
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import (
    DEFAULT_PORT,
    PROTOCOL_VERSION,
    Attach,
    Cancel,
    Checkpoints,
    Chunk,
    ChunkTaken,
    Error,
    Fetch,
    Heartbeat,
    Hello,
    JobChanged,
    Jobs,
    ListCheckpoints,
    ListJobs,
    Need,
    Offer,
    Piece,
    Submit,
    Welcome,
)
from megasam_shared.wire import MAX_MESSAGE_BYTES, decode, encode, request_number

from megasam_server.checkpoints.facts import checkpoint_facts, glance_at_all
from megasam_server.service.background import Background
from megasam_server.service.blobs import BlobStore
from megasam_server.service.jobs import JobStore
from megasam_server.service.media_roots import MediaRoots
from megasam_server.service.runner import JobRunner
from megasam_server.service.sessions import Session, Sessions
from megasam_server.service.state_lock import StateLock
from megasam_server.service.submission import PlacedJob, place_submission
from megasam_server.service.worker import SOLVER

_log = logging.getLogger(__name__)

_POLL_MS = 100
_MESSAGES_PER_TURN = 64


@dataclass(frozen=True)
class ServerConfig:
    """How a server runs.

    Attributes:
        state: folder for jobs and uploads.
        bind: ``tcp://127.0.0.1:PORT``; port 0 takes a free one.
        media_roots: folders whose plates clients may name by path.
        queue_limit: most jobs that wait.
        job_function: ``module:function`` that solves.
    """

    state: Path
    bind: str = f"tcp://127.0.0.1:{DEFAULT_PORT}"
    media_roots: Sequence[Path] = ()
    queue_limit: int = 100
    job_function: str = SOLVER


@dataclass
class _Listing:
    """The artefacts of a finished job, kept while somebody fetches them."""

    job: str = ""
    sizes: dict[str, int] = field(default_factory=dict)


class SolverServer:
    """A server that is bound when constructed and serves in :meth:`run`.

    Raises:
        MegasamError: ``curve_required`` for an address that other machines reach,
            ``bind_failed``, ``state_in_use``, ``state_unreadable``, ``media_root_missing``.
    """

    def __init__(self, config: ServerConfig) -> None:
        check_loopback(config.bind)
        self._queue_limit = config.queue_limit
        self._roots = MediaRoots(config.media_roots)
        # Absolute: workers stand in another folder.
        state = config.state.absolute()
        self._lock = StateLock(state)
        self._id = secrets.token_hex(16)
        self._stopping = False
        self._sessions = Sessions()
        self._listing = _Listing()
        self._context = zmq.Context()
        self._context.set(zmq.BLOCKY, False)
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            self._jobs = JobStore(state)
            self._blobs = BlobStore(state / "blobs")
            self.address = self._bind(config.bind)
        except BaseException:
            self._context.destroy(linger=0)
            self._lock.release()
            raise
        self._background = Background(self._context)
        self._runner = JobRunner(
            self._jobs,
            config.job_function,
            self._background.call_soon,
            self._background.forget,
            self._publish,
            time.monotonic,
        )
        self._handlers: dict[type, Callable[[Session, Any], None]] = {
            Heartbeat: self._on_heartbeat,
            Offer: self._on_offer,
            Chunk: self._on_chunk,
            Submit: self._on_submit,
            Cancel: self._on_cancel,
            ListJobs: self._on_list,
            ListCheckpoints: self._on_list_checkpoints,
            Attach: self._on_attach,
            Fetch: self._on_fetch,
        }

    def _bind(self, address: str) -> str:
        socket = self._socket
        socket.linger = 0
        # An answer to a client that is gone is an error here, not silently lost.
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.set(zmq.HEARTBEAT_IVL, 2000)
        socket.set(zmq.HANDSHAKE_IVL, 5000)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            in_use = error.errno == errno.EADDRINUSE
            raise MegasamError(
                "bind_failed",
                f"The server cannot listen on {address}: {error.strerror}.",
                "Another server may be running there; choose another port." if in_use else "",
            ) from None
        return socket.get_string(zmq.LAST_ENDPOINT)

    def run(self) -> None:
        """Serve until :meth:`stop`. Afterwards the server is closed: no process, no socket."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._background.wake_receiver, zmq.POLLIN)
        try:
            self._runner.open()
            while not self._stopping:
                poller.poll(_POLL_MS)
                self._background.run_calls()
                self._receive()
                self._runner.tick()
                for session in self._sessions.drop_silent(time.monotonic()):
                    _log.info("client %r is silent and forgotten", session.name)
        finally:
            self._close()

    def stop(self) -> None:
        """End :meth:`run`; from any thread. A running job is queued again for the next server."""
        self._background.call_soon(self._set_stopping)

    def _set_stopping(self) -> None:
        self._stopping = True

    def _close(self) -> None:
        self._runner.close()
        self._background.close()
        self._blobs.close()
        self._jobs.close()
        self._context.destroy(linger=0)
        self._lock.release()

    # --- messages

    def _receive(self) -> None:
        for _ in range(_MESSAGES_PER_TURN):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            identity, *body = frames
            if len(body) != 1:
                error = MegasamError("message_malformed", "A message must have one part.")
                self._send(identity, Error.of(0, error))
                continue
            self._handle(identity, body[0])

    def _handle(self, identity: bytes, data: bytes) -> None:
        number = 0
        try:
            try:
                message = decode(data)
            except MegasamError:
                number = request_number(data)
                raise
            if isinstance(message, Hello):
                self._on_hello(identity, message)
                return
            number = getattr(message, "request", 0)
            session = self._sessions.get(identity, time.monotonic())
            if session is None:
                raise MegasamError("hello_required", "The first message must be a hello.")
            handler = self._handlers.get(type(message))
            if handler is None:
                raise MegasamError(
                    "message_unexpected", f"{message.type_name} is nothing that a server is asked."
                )
            handler(session, message)
        except MegasamError as error:
            self._send(identity, Error.of(number, error))
        except Exception as error:
            _log.exception("a message could not be answered")
            unknown = MegasamError(
                "internal_error",
                f"The server failed in a way nobody foresaw: {type(error).__name__}: {error}",
                "Look at the server's log.",
            )
            self._send(identity, Error.of(number, unknown))

    def _on_hello(self, identity: bytes, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            older = "client" if hello.protocol < PROTOCOL_VERSION else "server"
            raise MegasamError(
                "protocol_mismatch",
                f"The client is version {hello.version} (protocol {hello.protocol}), the server is"
                f" version {__version__} (protocol {PROTOCOL_VERSION}): they do not fit.",
                f"Update the {older}.",
            )
        self._sessions.open(identity, hello.client, time.monotonic())
        self._send(identity, Welcome(PROTOCOL_VERSION, __version__, self._id))

    def _on_heartbeat(self, session: Session, _: Heartbeat) -> None:
        self._send(session.identity, Heartbeat())

    def _on_offer(self, session: Session, offer: Offer) -> None:
        self._answer_later(
            self._background.slow,
            session,
            offer.request,
            partial(self._blobs.missing, offer.files),
            lambda wanted: Need(offer.request, wanted),
        )

    def _on_chunk(self, session: Session, chunk: Chunk) -> None:
        self._answer_later(
            self._background.chunk,
            session,
            chunk.request,
            partial(self._blobs.write, chunk.sha256, chunk.offset, chunk.data),
            lambda received: ChunkTaken(chunk.request, chunk.sha256, received),
        )

    def _on_submit(self, session: Session, submit: Submit) -> None:
        known = self._jobs.find_submission("", submit.submission)
        if known is not None:
            session.watch(known.id)
            self._send(session.identity, JobChanged(submit.request, self._jobs.info(known.id)))
            return
        if self._jobs.queue_length() >= self._queue_limit:
            raise MegasamError(
                "queue_full",
                f"{self._queue_limit} jobs are waiting already.",
                "Submit again when some of them are over.",
            )
        job = self._jobs.new_id()
        folder = self._jobs.folder_of(job)
        self._answer_later(
            self._background.slow,
            session,
            submit.request,
            partial(place_submission, submit, folder, self._blobs, self._roots),
            partial(self._queue_job, session, submit, job),
        )

    def _queue_job(
        self, session: Session, submit: Submit, job: str, placed: PlacedJob
    ) -> JobChanged:
        known = self._jobs.find_submission("", submit.submission)
        if known is not None:  # it was sent twice in a row
            self._background.forget(partial(shutil.rmtree, self._jobs.folder_of(job).path))
            job = known.id
        else:
            settings = placed.settings.to_map()
            self._jobs.add(
                job, "", submit.submission, submit.name, placed.plate, placed.masks, settings
            )
            _log.info("job %s %r queued by %r", job, submit.name, session.name)
        session.watch(job)
        self._background.call_soon(self._runner.wake)
        return JobChanged(submit.request, self._jobs.info(job))

    def _on_cancel(self, session: Session, cancel: Cancel) -> None:
        self._runner.cancel(cancel.job)
        self._send(session.identity, JobChanged(cancel.request, self._jobs.info(cancel.job)))

    def _on_list(self, session: Session, ask: ListJobs) -> None:
        self._send(session.identity, Jobs(ask.request, self._jobs.newest()))

    def _on_list_checkpoints(self, session: Session, ask: ListCheckpoints) -> None:
        self._answer_later(
            self._background.slow,
            session,
            ask.request,
            lambda: checkpoint_facts(glance_at_all()),
            partial(Checkpoints, ask.request),
        )

    def _on_attach(self, session: Session, attach: Attach) -> None:
        info = self._jobs.info(attach.job)
        session.watch(attach.job)
        if info.finished is None:
            self._send(session.identity, JobChanged(attach.request, info))
        else:
            self._send(session.identity, self._jobs.result_of(attach.job, attach.request))

    def _on_fetch(self, session: Session, fetch: Fetch) -> None:
        if self._listing.job != fetch.job:
            result = self._jobs.result_of(fetch.job, 0)
            self._listing = _Listing(fetch.job, {a.path: a.size for a in result.artefacts})
        size = self._listing.sizes.get(fetch.path)
        if size is None:
            raise MegasamError(
                "artefact_unknown", f"Job {fetch.job} has no result file {fetch.path[:200]!r}."
            )
        path = self._jobs.folder_of(fetch.job).results / fetch.path
        self._answer_later(
            self._background.chunk,
            session,
            fetch.request,
            partial(_read, path, fetch.offset, min(fetch.length, max(0, size - fetch.offset))),
            lambda data: Piece(fetch.request, fetch.offset, data),
        )

    # --- answers

    def _answer_later(
        self,
        where: Callable[..., None],
        session: Session,
        request: int,
        work: Callable[[], Any],
        answer: Callable[[Any], Any],
    ) -> None:
        """Do ``work`` in a thread, then send ``answer(its value)``, or the error."""
        if session.is_flooding:
            raise MegasamError(
                "too_many_requests", "Too many requests at once.", "Wait for answers."
            )
        session.requests += 1

        def done(value: Any) -> None:
            session.requests -= 1
            self._send(session.identity, answer(value))

        def failed(error: MegasamError) -> None:
            session.requests -= 1
            self._send(session.identity, Error.of(request, error))

        where(work, done, failed)

    def _publish(self, job: str, message: Any) -> None:
        watching = list(self._sessions.watching(job))
        if watching:
            data = encode(message)
            for identity in watching:
                self._send_bytes(identity, data)

    def _send(self, identity: bytes, message: Any) -> None:
        self._send_bytes(identity, encode(message))

    def _send_bytes(self, identity: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart([identity, data], zmq.NOBLOCK)
        except zmq.Again:
            # It takes nothing any more. Should it come back, it says hello and attaches again.
            self._sessions.drop(identity)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._sessions.drop(identity)


def _read(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise MegasamError(
            "result_missing",
            f"The result file {path.name} can no longer be read on the server: {error.strerror}.",
            "Solve the plate again.",
        ) from None


def check_loopback(address: str) -> None:
    """Refuse an address that other machines reach.

    Raises:
        MegasamError: ``curve_required``, or ``bind_failed`` for what is no address.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not port.isdigit() or int(port) > 65535:
        raise MegasamError(
            "bind_failed",
            f"{address!r} is not an address to listen on.",
            "Write tcp://127.0.0.1:PORT.",
        )
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host.strip("[]")).is_loopback:
            return
    raise MegasamError(
        "curve_required",
        f"The server does not listen on {address}: other machines could reach it, and without"
        " CURVE encryption and a list of allowed keys anybody could use it. This version does not"
        " have CURVE yet.",
        "Listen on tcp://127.0.0.1:PORT, and reach it from elsewhere through an SSH tunnel.",
    )
