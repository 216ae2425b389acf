"""How the server is: for clients that ask, and as numbers for monitoring."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from megasam_shared import __version__
from megasam_shared.protocol import AskStatus, Counted, GpuState, RunningJob, ServerStatus

from megasam_server.service.answers import Answers
from megasam_server.service.background import Background
from megasam_server.service.counters import Counters
from megasam_server.service.devices import gpu_states
from megasam_server.service.drain import Drain
from megasam_server.service.jobs import JobStore
from megasam_server.service.ownership import Ownership
from megasam_server.service.runner import JobRunner, Run
from megasam_server.service.sessions import Session, Sessions


@dataclass(frozen=True)
class Numbers:
    """What monitoring reads.

    Attributes:
        jobs: how many there are, by state.
        clients: that are connected.
        free_bytes: of the state folder's disk.
        uptime: seconds.
        counts: (name, label) to count.
    """

    jobs: Mapping[str, int]
    clients: int
    free_bytes: int
    uptime: float
    draining: bool
    counts: Mapping[tuple[str, str], int]


class StatusRequests:
    """Answers AskStatus. Used by the server's thread.

    Args:
        state: the state folder.
        workers: tells where jobs run, for people.
        asks_driver: this machine's GPUs are of interest.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        state: Path,
        workers: Callable[[], str],
        asks_driver: bool,
        jobs: JobStore,
        runner: JobRunner,
        drain: Drain,
        ownership: Ownership,
        sessions: Sessions,
        counters: Counters,
        background: Background,
        answers: Answers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._workers = workers
        self._asks_driver = asks_driver
        self._jobs = jobs
        self._runner = runner
        self._drain = drain
        self._ownership = ownership
        self._sessions = sessions
        self._counters = counters
        self._background = background
        self._answers = answers
        self._clock = clock
        self._started = clock()

    @property
    def handlers(self) -> Mapping[type, Callable[[Session, Any], None]]:
        return {AskStatus: self._on_ask}

    def numbers(self) -> Numbers:
        """For monitoring."""
        return Numbers(
            jobs=self._jobs.count_by_state(),
            clients=len(self._sessions),
            free_bytes=shutil.disk_usage(self._state).free,
            uptime=self._clock() - self._started,
            draining=self._drain.is_on,
            counts=self._counters.snapshot(),
        )

    def _on_ask(self, session: Session, ask: AskStatus) -> None:
        self._answers.later(
            self._background.slow,
            session,
            ask.request,
            gpu_states if self._asks_driver else list,
            partial(self._status, session, ask),
        )

    def _status(self, session: Session, ask: AskStatus, gpus: list[GpuState]) -> ServerStatus:
        now = self._clock()
        owner = self._ownership.listed_owner(session)
        visible = [run for run in self._runner.runs if owner in (None, run.record.owner)]
        counts = self._counters.snapshot()
        return ServerStatus(
            request=ask.request,
            version=__version__,
            uptime=now - self._started,
            draining=self._drain.is_on,
            workers=self._workers()[:255],
            gpus=gpus,
            queued=self._jobs.queue_length(),
            running=len(self._runner.runs),
            jobs=[_running(run, now) for run in visible],
            counters=[Counted(name, label, count) for (name, label), count in counts.items()],
        )


def _running(run: Run, now: float) -> RunningJob:
    at = run.tracker.glance(now)
    return RunningJob(
        job=run.record.id,
        name=run.record.name,
        where=run.where[:255],
        stage=at.stage,
        done=at.done,
        total=at.total,
        fraction=at.fraction,
        elapsed=at.elapsed,
        eta=at.eta,
    )
