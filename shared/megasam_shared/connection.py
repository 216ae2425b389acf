"""One thread that owns the socket to a solver server.

ZeroMQ sockets belong to one thread, and a host such as Maya must never wait for a network. So the
socket lives in a plain daemon thread with its own context; requests go in through a queue and come
back as futures, and what the server says unasked goes to listeners (called in that thread: they
must be quick and only hand things on).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import zmq

from megasam_shared import __version__
from megasam_shared.errors import MegasamError
from megasam_shared.handshake import HandshakeWatch
from megasam_shared.protocol import (
    HEARTBEAT_EVERY,
    PROTOCOL_VERSION,
    SERVER_SILENT_AFTER,
    Error,
    Heartbeat,
    Hello,
    Welcome,
)
from megasam_shared.server_keys import ClientKeys
from megasam_shared.wire import MAX_MESSAGE_BYTES, decode, encode

_log = logging.getLogger(__name__)

_HELLO_EVERY = 0.25
_POLL_MS = 100
_LARGE = 1 << 16
_OFFLINE_POLL_MS = 20
# After these the server has nothing more to say to us; the first is about the versions, the second
# comes when our key is taken off its list while we are connected.
_FINAL_REFUSALS = ("protocol_mismatch", "server_refuses_key")


@dataclass(frozen=True)
class ConnectionChanged:
    """The server became reachable, or no longer is (``error`` says why)."""

    connected: bool
    error: MegasamError | None = None


Listener = Callable[[Any], None]


class Connection:
    """A connection that keeps itself alive: it says hello again when a lost server comes back.

    Args:
        address: ZeroMQ endpoint, e.g. ``tcp://127.0.0.1:5599``.
        name: what this client calls itself in the server's log.
        keys: encrypt, prove who we are, and talk to no server but the one with the right key; None
            for an unencrypted server on this machine.
    """

    def __init__(self, address: str, name: str = "", keys: ClientKeys | None = None) -> None:
        self.address = address
        self._keys = keys
        self._name = name[:255]
        self._numbers = itertools.count(1)
        self._outgoing: queue.SimpleQueue[tuple[bytes, int, Future]] = queue.SimpleQueue()
        self._pending: dict[int, Future] = {}
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._welcomed = threading.Event()
        self._failure: MegasamError | None = None
        self._welcome: Welcome | None = None
        self._last_beat = self._last_hello = 0.0
        # Since when a heartbeat is unanswered. Silence is counted from there and not from the last
        # message: a host that was frozen for a while has asked nothing, so it was told nothing.
        self._asked_since: float | None = None
        self._context = zmq.Context()
        self._context.set(zmq.BLOCKY, False)
        self._context.set(zmq.MAX_SOCKETS, 16)
        wake_address = f"inproc://wake-{id(self)}"
        self._wake_receiver = self._context.socket(zmq.PULL)
        self._wake_receiver.bind(wake_address)
        self._wake_sender = self._context.socket(zmq.PUSH)
        self._wake_sender.linger = 0
        self._wake_sender.connect(wake_address)
        self._open_socket()
        self._thread = threading.Thread(target=self._run, name="megasam-connection", daemon=True)
        self._thread.start()

    def _open_socket(self) -> None:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        # Nothing is queued for a server that is not there: it would be stale when it comes.
        socket.set(zmq.IMMEDIATE, 1)
        socket.set(zmq.IPV6, "[" in self.address)
        socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.set(zmq.RECONNECT_IVL, 100)
        socket.set(zmq.RECONNECT_IVL_MAX, 2000)
        socket.set(zmq.HEARTBEAT_IVL, 2000)
        if self._keys is not None:
            socket.curve_publickey = bytes.fromhex(self._keys.own.public)
            socket.curve_secretkey = bytes.fromhex(self._keys.own.secret)
            socket.curve_serverkey = bytes.fromhex(self._keys.server)
        self._socket = socket
        self._handshake = HandshakeWatch(socket, self.address, self._keys)
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            self._close_sockets()
            raise MegasamError(
                "server_address_invalid",
                f"{self.address!r} is not the address of a server ({error}).",
                "An address looks like tcp://127.0.0.1:5599.",
            ) from None

    # --- called from any thread

    @property
    def connected(self) -> bool:
        return self._welcomed.is_set()

    def wait_until_connected(self, timeout: float) -> Welcome:
        """The server's answer to the hello.

        Raises:
            MegasamError: ``protocol_mismatch``; ``server_refuses_key`` or ``server_handshake_failed``
                when the two sides do not accept each other's keys; ``server_not_reachable``
                after ``timeout`` s.
        """
        deadline = time.monotonic() + timeout
        while not self._welcomed.wait(0.02):
            if self._failure is not None:
                raise self._failure
            if self._closing.is_set():
                raise _closed()
            handshake = self._handshake
            if handshake.error and (handshake.refused or time.monotonic() > deadline):
                raise handshake.error
            if time.monotonic() > deadline:
                raise MegasamError(
                    "server_not_reachable",
                    f"No solver server answered at {self.address} within {timeout:g} s.",
                    "Start one with 'megasam serve', or check address and port.",
                )
        welcome = self._welcome
        assert welcome is not None
        return welcome

    def survives(self, error: MegasamError, timeout: float) -> bool:
        """Whether ``error`` is the loss of the server, and it is back within ``timeout`` s.

        Raises:
            MegasamError: when it is back and does not want us, see :meth:`wait_until_connected`.
        """
        if error.code != "server_lost" or timeout <= 0:
            return False
        try:
            self.wait_until_connected(timeout)
        except MegasamError as later:
            if later.code not in ("server_not_reachable", "server_handshake_failed"):
                raise
            return False
        return True

    def add_listener(self, listener: Listener) -> None:
        """Call ``listener(event)`` for everything that comes unasked and for ConnectionChanged."""
        with self._lock:
            self._listeners += (listener,)

    def remove_listener(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = tuple(known for known in self._listeners if known != listener)

    def send(self, kind: type, **fields: Any) -> Future:
        """Send a request of message class ``kind``; the future holds the answering message.

        The future fails with MegasamError when the server refuses, is lost, or on close.
        """
        number = next(self._numbers)
        future: Future = Future()
        data = encode(kind(request=number, **fields))
        with self._lock:
            if self._closing.is_set():
                raise _closed()
            self._outgoing.put((data, number, future))
            self._wake()
        return future

    def request(self, kind: type, timeout: float = 30.0, **fields: Any) -> Any:
        """Send and wait for the answer.

        Raises:
            MegasamError: what the server answered, ``server_lost`` or ``server_timeout``.
        """
        return answer_of(self.send(kind, **fields), timeout)

    def close(self) -> None:
        """Stop the thread and free the sockets; waiting requests fail. Safe to call twice."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _wake(self) -> None:
        # When the queue of wake-ups is full, the thread is about to look anyway.
        with contextlib.suppress(zmq.Again):
            self._wake_sender.send(b"", zmq.NOBLOCK)

    # --- called in the connection's own thread

    def _run(self) -> None:
        poller = self._new_poller()
        try:
            while not self._closing.is_set():
                poller.poll(_POLL_MS if self.connected else _OFFLINE_POLL_MS)
                self._drain_wake_ups()
                self._handshake.look()
                if self._handshake.wants_new_socket:
                    self._close_server_socket()
                    self._open_socket()
                    poller = self._new_poller()
                self._receive_all()
                self._keep_alive(time.monotonic())
                self._send_all()
        finally:
            self._fail_pending(_closed())
            with self._lock:
                self._closing.set()
                self._close_sockets()

    def _new_poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        for socket in (self._socket, self._handshake.monitor, self._wake_receiver):
            poller.register(socket, zmq.POLLIN)
        return poller

    def _close_server_socket(self) -> None:
        self._handshake.close()
        self._socket.close()

    def _close_sockets(self) -> None:
        self._close_server_socket()
        self._wake_sender.close()
        self._wake_receiver.close()
        self._context.term()

    def _drain_wake_ups(self) -> None:
        while self._wake_receiver.poll(0):
            self._wake_receiver.recv(zmq.NOBLOCK)

    def _receive_all(self) -> None:
        for _ in range(100):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._asked_since = None
            try:
                self._handle(decode(frames[0]))
            except MegasamError as error:
                # An answer that cannot be read is still an answer to somebody.
                self._tell(Error.of(0, error))

    def _handle(self, message: Any) -> None:
        if isinstance(message, Heartbeat):
            return
        if isinstance(message, Welcome):
            if self._welcome is None or self._welcome.server != message.server:
                self._fail_pending(self._lost("was restarted"))
            self._welcome = message
            self._handshake.succeeded()
            if not self.connected:
                self._welcomed.set()
                self._tell(ConnectionChanged(True))
            return
        if isinstance(message, Error) and message.code == "hello_required":
            self._disconnect(self._lost("was restarted"))
            return
        if isinstance(message, Error) and message.code in _FINAL_REFUSALS:
            self._failure = message.to_error()
            self._disconnect(self._failure)
            return
        future = self._pending.pop(message.request, None) if hasattr(message, "request") else None
        if future is None:
            self._tell(message)
        elif isinstance(message, Error):
            future.set_exception(message.to_error())
        else:
            future.set_result(message)

    def _keep_alive(self, now: float) -> None:
        waited = now - self._asked_since if self._asked_since is not None else 0.0
        if self.connected and waited > SERVER_SILENT_AFTER:
            self._disconnect(self._lost(f"has not answered for {SERVER_SILENT_AFTER:g} s"))
        if self.connected:
            if now - self._last_beat >= HEARTBEAT_EVERY:
                self._last_beat = now
                if self._asked_since is None:
                    self._asked_since = now
                self._say(encode(Heartbeat()))
        elif self._failure is None and now - self._last_hello >= _HELLO_EVERY:
            self._last_hello = now
            self._say(encode(Hello(PROTOCOL_VERSION, __version__, self._name)))

    def _send_all(self) -> None:
        while True:
            try:
                data, number, future = self._outgoing.get_nowait()
            except queue.Empty:
                return
            if not self.connected:
                future.set_exception(self._failure or self._lost("is not connected"))
                continue
            self._pending[number] = future
            if not self._say(data):
                del self._pending[number]
                future.set_exception(self._lost("does not take messages"))

    def _say(self, data: bytes) -> bool:
        try:
            # A small message is copied sooner than it is looked after.
            self._socket.send(data, zmq.NOBLOCK, copy=len(data) < _LARGE)
        except zmq.ZMQError:
            return False
        return True

    def _disconnect(self, error: MegasamError) -> None:
        was_connected = self.connected
        self._welcomed.clear()
        self._asked_since = None
        self._fail_pending(error)
        if was_connected:
            self._tell(ConnectionChanged(False, error))

    def _fail_pending(self, error: MegasamError) -> None:
        pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(error)
        while self._closing.is_set() and not self._outgoing.empty():
            self._outgoing.get_nowait()[2].set_exception(error)

    def _tell(self, event: Any) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                _log.exception("A listener of the solver connection failed")

    def _lost(self, what: str) -> MegasamError:
        return MegasamError(
            "server_lost",
            f"The solver server at {self.address} {what}.",
            "Jobs live on the server's disk: attach to yours again when it is back.",
        )


def answer_of(future: Future, timeout: float) -> Any:
    """The answer to a request that was sent.

    Raises:
        MegasamError: what the server answered, ``server_lost`` or ``server_timeout``.
    """
    try:
        return future.result(timeout)
    except TimeoutError:
        raise MegasamError(
            "server_timeout",
            f"The server is alive but did not answer within {timeout:g} s.",
            "Its disk may be very busy; try again.",
        ) from None


def _closed() -> MegasamError:
    return MegasamError("client_closed", "The connection to the solver server was closed.")
