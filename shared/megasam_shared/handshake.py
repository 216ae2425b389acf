"""Why a server that is there does not answer: what the socket tells of its handshakes."""

from __future__ import annotations

import time

import zmq
from zmq.utils.monitor import parse_monitor_message

from megasam_shared.errors import MegasamError
from megasam_shared.server_keys import ClientKeys

# libzmq does not call again on a server that refused it; after this many seconds, we do.
_RETRY_AFTER = 2.0
_REFUSED = zmq.Event.HANDSHAKE_FAILED_AUTH | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
_FAILED = _REFUSED | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL


class HandshakeWatch:
    """Watches one client socket. Used by one thread.

    Args:
        socket: not connected yet.
        address: for messages.
        keys: that the socket uses; None when it does not encrypt.

    Attributes:
        monitor: socket to poll; ready when :meth:`look` has something to see.
        error: why the last handshake failed; None when none did.
        refused: the server has decided, and waiting will not help.
    """

    def __init__(self, socket: zmq.Socket, address: str, keys: ClientKeys | None) -> None:
        self.monitor: zmq.Socket = socket.get_monitor_socket(_FAILED)
        self.error: MegasamError | None = None
        self.refused = False
        self._socket = socket
        self._address = address
        self._keys = keys
        self._retry_at: float | None = None

    def look(self) -> None:
        """Take in what happened."""
        while self.monitor.poll(0):
            event = parse_monitor_message(self.monitor.recv_multipart())["event"]
            self.refused = bool(event & _REFUSED)
            if self.refused:
                self._retry_at = time.monotonic() + _RETRY_AFTER
            if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
                self.error = self._key_refused()
            else:
                self.error = self._failed()

    def succeeded(self) -> None:
        """The server has answered: what failed before is past."""
        self.error, self.refused = None, False

    @property
    def wants_new_socket(self) -> bool:
        """This socket will never connect: it is time to try with another one."""
        return self._retry_at is not None and time.monotonic() >= self._retry_at

    def close(self) -> None:
        """End the watch; the socket stays open."""
        self._socket.disable_monitor()
        self.monitor.close()

    def _key_refused(self) -> MegasamError:
        public = self._keys.own.public if self._keys is not None else ""
        return MegasamError(
            "server_refuses_key",
            f"The solver server at {self._address} does not admit this machine's key.",
            f"Ask who runs it to run 'megasam keys allow NAME {public}'.",
        )

    def _failed(self) -> MegasamError:
        if self._keys is None:
            hint = (
                f"It may want encryption: run 'megasam keys trust {self._address} KEY' with"
                " the key of the server."
            )
        else:
            hint = "It may not be encrypted, or have another key than the one trusted here."
        return MegasamError(
            "server_handshake_failed",
            f"Something listens at {self._address}, but the handshake with it fails.",
            hint,
        )
