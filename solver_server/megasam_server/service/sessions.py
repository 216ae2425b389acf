"""Who is connected, and which jobs each of them watches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from megasam_shared.protocol import CLIENT_SILENT_AFTER

_MOST_REQUESTS = 64
_MOST_WATCHED = 1000


@dataclass
class Session:
    """One client that said hello.

    Attributes:
        identity: ZeroMQ routing id.
        name: what it calls itself.
        last_heard: monotonic seconds.
        requests: how many of its requests are being worked on.
        jobs: the jobs whose events it receives.
    """

    identity: bytes
    name: str
    last_heard: float
    requests: int = 0
    jobs: dict[str, None] = field(default_factory=dict)

    @property
    def is_flooding(self) -> bool:
        """It asks far faster than it waits for answers; ours keep 8 requests in flight."""
        return self.requests >= _MOST_REQUESTS

    def watch(self, job: str) -> None:
        self.jobs[job] = None
        while len(self.jobs) > _MOST_WATCHED:
            del self.jobs[next(iter(self.jobs))]


class Sessions:
    """All sessions, by routing id."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, Session] = {}

    def open(self, identity: bytes, name: str, now: float) -> None:
        """A client said hello; saying it again changes nothing."""
        self._sessions.setdefault(identity, Session(identity, name, now))

    def get(self, identity: bytes, now: float) -> Session | None:
        """The session of a message that just came; None when there was no hello."""
        session = self._sessions.get(identity)
        if session is not None:
            session.last_heard = now
        return session

    def watching(self, job: str) -> Iterator[bytes]:
        return iter([s.identity for s in self._sessions.values() if job in s.jobs])

    def drop(self, identity: bytes) -> None:
        self._sessions.pop(identity, None)

    def drop_silent(self, now: float) -> list[Session]:
        """Forget the clients that have been silent too long; their jobs go on."""
        silent = [s for s in self._sessions.values() if now - s.last_heard > CLIENT_SILENT_AFTER]
        for session in silent:
            del self._sessions[session.identity]
        return silent
