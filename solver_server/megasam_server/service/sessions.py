"""Who is connected, and which jobs each of them watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from megasam_shared.protocol import CLIENT_SILENT_AFTER

from megasam_server.service.door import Visitor

_MOST_REQUESTS = 64
_MOST_WATCHED = 1000


@dataclass
class Session:
    """One client that said hello.

    Attributes:
        identity: ZeroMQ routing id.
        hello_name: what it calls itself, which proves nothing.
        visitor: who it is by its key.
        last_heard: monotonic seconds.
        requests: how many of its requests are being worked on.
        jobs: the jobs whose events it receives.
    """

    identity: bytes
    hello_name: str
    visitor: Visitor
    last_heard: float
    requests: int = 0
    jobs: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For the log: the name on the allow-list where there is one."""
        return f"{self.visitor.client or 'local'} ({self.hello_name})"

    @property
    def owner(self) -> str:
        """Who owns what it submits and uploads."""
        return self.visitor.owner

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

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def open(self, identity: bytes, hello_name: str, visitor: Visitor, now: float) -> None:
        """A client said hello; saying it again changes nothing."""
        if self.get(identity, visitor, now) is None:
            self._sessions[identity] = Session(identity, hello_name, visitor, now)

    def get(self, identity: bytes, visitor: Visitor, now: float) -> Session | None:
        """The session of a message that just came; None when there was no hello.

        A session ends when its routing id comes with another key.
        """
        session = self._sessions.get(identity)
        if session is None:
            return None
        if session.visitor.owner != visitor.owner:
            self.drop(identity)
            return None
        session.last_heard = now
        return session

    def watching(self, job: str) -> Iterator[bytes]:
        return iter([s.identity for s in self._sessions.values() if job in s.jobs])

    def drop(self, identity: bytes) -> None:
        self._sessions.pop(identity, None)

    def drop_silent(self, now: float) -> list[Session]:
        """Forget the clients that have been silent too long; their jobs go on."""
        return self._drop_where(lambda session: now - session.last_heard > CLIENT_SILENT_AFTER)

    def drop_not_admitted(self, admits: Callable[[str], bool]) -> list[Session]:
        """Forget the clients whose owner ``admits`` does not accept."""
        return self._drop_where(lambda session: not admits(session.owner))

    def _drop_where(self, gone: Callable[[Session], bool]) -> list[Session]:
        dropped = [session for session in self._sessions.values() if gone(session)]
        for session in dropped:
            del self._sessions[session.identity]
        return dropped
