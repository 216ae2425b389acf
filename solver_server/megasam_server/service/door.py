"""Who comes in: CURVE handshakes against the allow-list, and a count of those turned away."""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass

import zmq
from megasam_shared.keys import read_key_pair
from zmq.auth import Authenticator
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from megasam_server.service import counters as names
from megasam_server.service.allow_list import AllowList
from megasam_server.service.counters import Counters
from megasam_server.service.options import CurveOptions

_log = logging.getLogger(__name__)

_RELOAD_EVERY = 0.5
_WATCHED = (
    zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.ACCEPTED
    | zmq.Event.DISCONNECTED
)
_COUNTED = {
    zmq.Event.ACCEPTED: names.CONNECTIONS,
    zmq.Event.HANDSHAKE_SUCCEEDED: names.ADMITTED,
    zmq.Event.DISCONNECTED: names.DISCONNECTIONS,
    zmq.Event.HANDSHAKE_FAILED_AUTH: names.REFUSED_KEYS,
}


@dataclass(frozen=True)
class Visitor:
    """Who sent a message.

    Attributes:
        owner: public key, which owns the jobs and uploads; empty without CURVE.
        client: name on the allow-list; empty without CURVE.
    """

    owner: str = ""
    client: str = ""


class Door:
    """The handshakes of one server socket. Used by one thread.

    Args:
        context: of the socket.
        socket: not bound yet; with ``curve`` it takes encrypted clients with allowed keys only.
        curve: None to let everybody in who reaches the socket.

    Raises:
        MegasamError: what is wrong with the key file or the list.
    """

    def __init__(
        self,
        context: zmq.Context,
        socket: zmq.Socket,
        curve: CurveOptions | None,
        counters: Counters,
    ) -> None:
        self._counters = counters
        self._socket = socket
        self._allowed: AllowList | None = None
        self._authenticator: _Authenticator | None = None
        self._reload_at = 0.0
        if curve is not None:
            own = read_key_pair(curve.server_key)
            self._allowed = AllowList(curve.allowed_clients)
            self._authenticator = _Authenticator(context, self._allowed)
            socket.curve_server = 1
            socket.curve_secretkey = bytes.fromhex(own.secret)
            socket.zap_domain = b"*"
        self._monitor = socket.get_monitor_socket(_WATCHED)

    @property
    def sockets(self) -> list[zmq.Socket]:
        """To poll; :meth:`attend` when one of them is ready."""
        zap = [self._authenticator.zap_socket] if self._authenticator else []
        return [self._monitor, *zap]

    def attend(self) -> bool:
        """Answer handshakes, count what failed; True when the allow-list has changed."""
        if self._authenticator is not None:
            self._authenticator.answer()
        while self._monitor.poll(0):
            self._count(parse_monitor_message(self._monitor.recv_multipart()))
        now = time.monotonic()
        if self._allowed is None or now < self._reload_at:
            return False
        self._reload_at = now + _RELOAD_EVERY
        return self._allowed.reload()

    def visitor(self, frame: zmq.Frame) -> Visitor | None:
        """Who sent the message of which this is a part; None when its key was revoked."""
        if self._allowed is None:
            return Visitor()
        key = str(frame.get("User-Id"))
        name = self._allowed.name_of(key)
        return None if name is None else Visitor(key, name)

    def admits(self, owner: str) -> bool:
        """Whether that owner may still come in."""
        return self._allowed is None or self._allowed.name_of(owner) is not None

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        if self._authenticator is not None:
            self._authenticator.stop()

    def _count(self, happened: dict) -> None:
        self._counters.add(_COUNTED.get(happened["event"], names.REFUSED_HANDSHAKES))


class _Authenticator(Authenticator):
    """pyzmq's side of the ZAP protocol, asked from our own loop; users are hexadecimal keys."""

    def __init__(self, context: zmq.Context, allowed: AllowList) -> None:
        super().__init__(context)
        self._allowed_clients = allowed
        self.configure_curve_callback(credentials_provider=self)
        self.start()

    def callback(self, _domain: str, key: bytes) -> bool:
        self._allowed_clients.reload()
        public = z85.decode(key).hex()
        known = self._allowed_clients.name_of(public) is not None
        if not known:
            _log.warning("a client with the unknown key %s was refused", public)
        return known

    def curve_user_id(self, client_public_key: bytes) -> str:
        return client_public_key.hex()

    def answer(self) -> None:
        """Answer the handshakes that wait."""
        while self.zap_socket.poll(0):
            _run_to_end(self.handle_zap_message(self.zap_socket.recv_multipart()))


def _run_to_end(coroutine: Coroutine) -> None:
    """Run a coroutine that waits for nothing, which needs no event loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("the authenticator waits for something")
