"""The last minutes of a server that was told to stop in good order."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import Chunk, Error, Fetch, Offer, Submit

from megasam_server.service import counters as names
from megasam_server.service.answers import Answers
from megasam_server.service.counters import Counters
from megasam_server.service.runner import JobRunner
from megasam_server.service.sessions import Sessions

_log = logging.getLogger(__name__)

_BRING_WORK = (Offer, Chunk, Submit)
# The client whose job has just ended fetches its results.
_FETCHES_FOLLOW_WITHIN = 2.0


class Drain:
    """From the word to stop until nothing runs any more, or the time is up.

    Everything but new work goes on meanwhile: clients see progress, fetch results, cancel.

    Args:
        timeout: seconds that jobs have to reach the end of their stage.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        runner: JobRunner,
        sessions: Sessions,
        answers: Answers,
        counters: Counters,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._sessions = sessions
        self._answers = answers
        self._counters = counters
        self._timeout = timeout
        self._clock = clock
        self._until: float | None = None
        self._ended_jobs = 0
        self._last_use = -math.inf

    @property
    def is_on(self) -> bool:
        return self._until is not None

    def is_over(self) -> bool:
        """The server can stop: nothing runs and nobody fetches, or it has waited long enough."""
        now = self._clock()
        ended = self._counters.total(names.ENDED_JOBS)
        if ended > self._ended_jobs:
            self._ended_jobs, self._last_use = ended, now
        if self._until is None:
            return False
        is_quiet = now >= self._last_use + _FETCHES_FOLLOW_WITHIN
        return now >= self._until or (self._runner.is_idle and is_quiet)

    def begin(self) -> None:
        """Take no more work, and tell every client."""
        if self.is_on:
            return
        self._until = self._clock() + self._timeout
        _log.info("stopping: %d jobs have %g s to go on", len(self._runner.runs), self._timeout)
        for session in self._sessions:
            self._answers.send(session.identity, Error.of(0, _draining()))
        self._runner.drain()

    def check(self, message: Any) -> None:
        """Look at every message that clients send.

        Raises:
            MegasamError: ``server_draining`` for one that brings new work.
        """
        if isinstance(message, Fetch):
            self._last_use = self._clock()
        if self.is_on and isinstance(message, _BRING_WORK):
            raise _draining()


def _draining() -> MegasamError:
    return MegasamError(
        "server_draining",
        "The solver server is about to stop and takes no more plates and jobs.",
        "Jobs that it has stay on its disk and go on when it is back; submit new ones then.",
    )
