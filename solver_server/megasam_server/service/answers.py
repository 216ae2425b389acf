"""What goes back to clients: answers now or later, refusals (all counted), and news of jobs."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import zmq
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import Error
from megasam_shared.wire import encode

from megasam_server.service import counters as names
from megasam_server.service.background import unforeseen
from megasam_server.service.counters import Counters
from megasam_server.service.sessions import Session, Sessions


class Answers:
    """The way from the server to its clients. Used by the server's thread only.

    Args:
        socket: the ROUTER.
    """

    def __init__(self, socket: zmq.Socket, sessions: Sessions, counters: Counters) -> None:
        self._socket = socket
        self._sessions = sessions
        self._counters = counters

    def send(self, identity: bytes, message: Any) -> None:
        """Send a message; a client that takes nothing any more is forgotten."""
        self._send(identity, encode(message))

    def refuse(self, identity: bytes, request: int, error: MegasamError) -> None:
        """Answer a request with an error."""
        self._counters.add(names.REFUSED_MESSAGES, label=error.code)
        self.send(identity, Error.of(request, error))

    def later(
        self,
        where: Callable[..., None],
        session: Session,
        request: int,
        work: Callable[[], Any],
        answer: Callable[[Any], Any],
    ) -> None:
        """Do ``work`` in a thread, then send ``answer(its value)``, or the error.

        Args:
            where: a method of :class:`megasam_server.service.background.Background`.
            answer: called in the server's thread.

        Raises:
            MegasamError: ``too_many_requests``.
        """
        if session.is_flooding:
            raise MegasamError(
                "too_many_requests", "Too many requests at once.", "Wait for answers."
            )
        session.requests += 1

        def done(value: Any) -> None:
            session.requests -= 1
            try:
                message = answer(value)
            except MegasamError as error:
                self.refuse(session.identity, request, error)
            except Exception as error:
                self.refuse(session.identity, request, unforeseen(error))
            else:
                self.send(session.identity, message)

        def failed(error: MegasamError) -> None:
            session.requests -= 1
            self.refuse(session.identity, request, error)

        where(work, done, failed)

    def publish(self, job: str, message: Any) -> None:
        """Tell the clients that watch a job."""
        watching = list(self._sessions.watching(job))
        if watching:
            data = encode(message)
            for identity in watching:
                self._send(identity, data)

    def _send(self, identity: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart([identity, data], zmq.NOBLOCK)
        except zmq.Again:
            # It takes nothing any more. Should it come back, it says hello and attaches again.
            self._sessions.drop(identity)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._sessions.drop(identity)
