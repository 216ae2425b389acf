"""The solver server: one thread around a ROUTER socket that never waits for a disk or a solve."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from megasam_shared import __version__
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import PROTOCOL_VERSION, Heartbeat, Hello, Welcome
from megasam_shared.server_keys import is_loopback
from megasam_shared.wire import MAX_MESSAGE_BYTES, decode, request_number

from megasam_server.media.picture_limits import PICTURE_LIMITS_VARIABLE
from megasam_server.service import counters as names
from megasam_server.service.answers import Answers
from megasam_server.service.background import Background, unforeseen
from megasam_server.service.checkpoint_requests import CheckpointRequests
from megasam_server.service.choose_executor import choose_executor
from megasam_server.service.counters import Counters
from megasam_server.service.door import Door, Visitor
from megasam_server.service.drain import Drain
from megasam_server.service.fetch_requests import FetchRequests
from megasam_server.service.housekeeping import Housekeeping
from megasam_server.service.job_requests import JobRequests
from megasam_server.service.jobs import JobStore
from megasam_server.service.kept_memory import keep_freed_memory
from megasam_server.service.media_roots import MEDIA_ROOTS_VARIABLE, MediaRoots
from megasam_server.service.options import ServerOptions
from megasam_server.service.ownership import Ownership
from megasam_server.service.runner import JobRunner
from megasam_server.service.sessions import Session, Sessions
from megasam_server.service.state_index import CACHE_FOLDER
from megasam_server.service.state_lock import StateLock
from megasam_server.service.status_requests import StatusRequests
from megasam_server.service.storage import Storage
from megasam_server.service.upload_requests import UploadRequests

_log = logging.getLogger(__name__)

_POLL_MS = 100
_MESSAGES_PER_TURN = 64
# What libzmq holds for one client, messages each way: a client that neither reads nor lets us read
# costs a bounded amount of memory. More than a well-behaved one ever has on the way.
_MOST_RECEIVED = 64
_MOST_TO_SEND = 128


class SolverServer:
    """A server that is bound when constructed and serves in :meth:`run`.

    Attributes:
        address: where it listens.
        counters: what it has counted so far.

    Raises:
        MegasamError: ``curve_required`` for an address that other machines reach,
            ``bind_failed``, ``state_in_use``, ``state_unreadable``, ``media_root_missing``,
            ``metrics_not_loopback``, or what is wrong with the keys, the devices or the cluster.
    """

    def __init__(self, options: ServerOptions) -> None:
        check_bind(options)
        roots = MediaRoots(options.media_roots, options.prefix_maps)
        # Absolute: workers stand in another folder.
        state = options.state.absolute()
        self._lock = StateLock(state)
        self._id = secrets.token_hex(16)
        self._stopping = False
        self.counters = Counters()
        self._sessions = Sessions()
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock.release)
            self._context = zmq.Context()
            undo.callback(self._context.destroy, linger=0)
            self._context.set(zmq.BLOCKY, False)
            self._socket = self._context.socket(zmq.ROUTER)
            self._door = Door(self._context, self._socket, options.curve, self.counters)
            undo.callback(self._door.close)
            self._jobs = JobStore(state)
            undo.callback(self._jobs.close)
            self._storage = Storage(state, options.storage, self._jobs.clock.now)
            undo.callback(self._storage.close)
            self.address = self._bind(options.bind)
            self._background = Background(self._context)
            undo.callback(self._background.close)
            self._put_together(options, state, roots)
            undo.pop_all()

    def _put_together(self, options: ServerOptions, state: Path, roots: MediaRoots) -> None:
        self._answers = Answers(self._socket, self._sessions, self.counters)
        self._ownership = Ownership(self._storage, self._jobs, options.shared_jobs)
        environment = {
            PICTURE_LIMITS_VARIABLE: options.pictures.to_text(),
            MEDIA_ROOTS_VARIABLE: roots.to_text(),
        }
        executor = choose_executor(options, state, environment, self._background.call_soon)
        self._runner = JobRunner(
            self._jobs,
            executor,
            state / CACHE_FOLDER,
            options.job_timeout,
            self._background.forget,
            self._answers.publish,
            self.counters,
            time.monotonic,
        )
        self._drain = Drain(
            self._runner, self._sessions, self._answers, self.counters, options.drain_timeout
        )
        self._housekeeping = Housekeeping(
            state, self._jobs, self._storage, self._background.forget, time.monotonic()
        )
        uploads = UploadRequests(
            self._ownership, self._background, self._answers, options.uploads, self.counters
        )
        jobs = JobRequests(
            options,
            self._jobs,
            self._runner,
            self._ownership,
            roots,
            self._background,
            self._answers,
        )
        fetching = FetchRequests(
            self._jobs, self._ownership, self._background, self._answers, self.counters
        )
        status = StatusRequests(
            state,
            lambda: executor.title,
            options.ray is None,
            self._jobs,
            self._runner,
            self._drain,
            self._ownership,
            self._sessions,
            self.counters,
            self._background,
            self._answers,
        )
        self._handlers: dict[type, Callable[[Session, Any], None]] = {
            Heartbeat: self._on_heartbeat,
            **uploads.handlers,
            **jobs.handlers,
            **fetching.handlers,
            **CheckpointRequests(self._background, self._answers).handlers,
            **status.handlers,
        }
        self._metrics = None
        if options.metrics is not None:
            from megasam_server.service.metrics import MetricsPort

            self._metrics = MetricsPort(options.metrics, status.numbers, self._background.call_soon)

    def _bind(self, address: str) -> str:
        socket = self._socket
        socket.linger = 0
        # An answer to a client that is gone is an error here, not silently lost.
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.set(zmq.RCVHWM, _MOST_RECEIVED)
        socket.set(zmq.SNDHWM, _MOST_TO_SEND)
        socket.set(zmq.HEARTBEAT_IVL, 2000)
        socket.set(zmq.HANDSHAKE_IVL, 5000)
        socket.set(zmq.IPV6, "[" in address)
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
        keep_freed_memory()
        poller = zmq.Poller()
        for socket in (self._socket, self._background.wake_receiver, *self._door.sockets):
            poller.register(socket, zmq.POLLIN)
        try:
            self._runner.open()
            while not (self._stopping or self._drain.is_over()):
                # Progress that is held back for a moment is not held back for a whole turn.
                due = self._runner.seconds_to_next_report()
                poller.poll(min(_POLL_MS, max(0, math.ceil(due * 1000))))
                self._background.run_calls()
                if self._door.attend():
                    self._forget_revoked()
                self._receive()
                self._runner.tick()
                self._housekeeping.tick(time.monotonic())
                for session in self._sessions.drop_silent(time.monotonic()):
                    _log.info("client %r is silent and forgotten", session.name)
        finally:
            self._close()

    def stop(self) -> None:
        """End :meth:`run`; from any thread. A running job is queued again for the next server."""
        self._background.call_soon(self._set_stopping)

    def drain(self) -> None:
        """End :meth:`run` in good order, see :mod:`megasam_server.service.drain`; from any
        thread."""
        self._background.call_soon(self._drain.begin)

    @property
    def metrics_address(self) -> str | None:
        """Where Prometheus reads; None for nowhere."""
        return None if self._metrics is None else self._metrics.address

    def _set_stopping(self) -> None:
        self._stopping = True

    def _close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        self._runner.close()
        self._background.close()
        self._storage.close()
        self._jobs.close()
        self._door.close()
        self._context.destroy(linger=0)
        self._lock.release()

    # --- messages

    def _receive(self) -> None:
        for _ in range(_MESSAGES_PER_TURN):
            try:
                identity, *body = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self.counters.add(names.MESSAGES)
            self._handle(identity.bytes, body)

    def _handle(self, identity: bytes, body: list[zmq.Frame]) -> None:
        number = 0
        try:
            if len(body) != 1:
                raise MegasamError("message_malformed", "A message must have one part.")
            visitor = self._door.visitor(body[0])
            if visitor is None:
                self._sessions.drop(identity)
                raise key_revoked()
            # Without a copy: decoding makes the one that is kept.
            data = body[0].buffer
            try:
                message = decode(data)
            except MegasamError:
                number = request_number(data)
                raise
            if isinstance(message, Hello):
                self._on_hello(identity, visitor, message)
                return
            number = getattr(message, "request", 0)
            session = self._sessions.get(identity, visitor, time.monotonic())
            if session is None:
                raise MegasamError("hello_required", "The first message must be a hello.")
            handler = self._handlers.get(type(message))
            if handler is None:
                raise MegasamError(
                    "message_unexpected", f"{message.type_name} is nothing that a server is asked."
                )
            self._drain.check(message)
            handler(session, message)
        except MegasamError as error:
            self._answers.refuse(identity, number, error)
        except Exception as error:
            self._answers.refuse(identity, number, unforeseen(error))

    def _on_hello(self, identity: bytes, visitor: Visitor, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            older = "client" if hello.protocol < PROTOCOL_VERSION else "server"
            raise MegasamError(
                "protocol_mismatch",
                f"The client is version {hello.version} (protocol {hello.protocol}), the server is"
                f" version {__version__} (protocol {PROTOCOL_VERSION}): they do not fit.",
                f"Update the {older}.",
            )
        if visitor.owner and identity[:1] != b"\0":
            # Answers go to routing ids. The ones that libzmq gives out cannot be guessed; a chosen
            # one could be that of a client that has just gone.
            raise MegasamError("message_malformed", "A client must not choose its routing id.")
        self._sessions.open(identity, hello.client, visitor, time.monotonic())
        self._answers.send(identity, Welcome(PROTOCOL_VERSION, __version__, self._id))

    def _on_heartbeat(self, session: Session, _: Heartbeat) -> None:
        self._answers.send(session.identity, Heartbeat())

    def _forget_revoked(self) -> None:
        """A key that is no longer allowed takes the sessions with it; the jobs stay."""
        for session in self._sessions.drop_not_admitted(self._door.admits):
            _log.info("client %r is no longer allowed", session.name)
            self._answers.refuse(session.identity, 0, key_revoked())


def key_revoked() -> MegasamError:
    """The error for a client whose key was taken off the list while it was connected."""
    return MegasamError(
        "server_refuses_key",
        "The solver server no longer admits this machine's key.",
        "Ask who runs it.",
    )


def check_bind(options: ServerOptions) -> None:
    """Refuse an address that other machines reach, unless clients must prove who they are.

    Raises:
        MegasamError: ``curve_required``, or ``bind_failed`` for what is no address.
    """
    address = options.bind
    port = address.rpartition(":")[2]
    if not address.startswith("tcp://") or not port.isdigit() or int(port) > 65535:
        raise MegasamError(
            "bind_failed",
            f"{address!r} is not an address to listen on.",
            "Write tcp://127.0.0.1:PORT.",
        )
    if options.curve is None and not is_loopback(address):
        raise MegasamError(
            "curve_required",
            f"The server does not listen on {address} without CURVE: other machines could reach"
            " it, and anybody there could use it.",
            "Run 'megasam keys new --server', allow your clients with 'megasam keys allow NAME"
            " KEY', and start the server with --curve.",
        )
