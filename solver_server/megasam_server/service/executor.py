"""Where jobs are solved, as the queue sees it: whatever can take a job, say how it goes, and stop.

On one machine that is :class:`megasam_server.service.local_workers.LocalWorkers`. Another executor
(a cluster's) needs the same few methods; the queue, the retries, the timeouts and the clients stay
what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# Workers that fail to start one after another, until jobs are told.
MOST_FAILED_STARTS = 3
_PAUSES = (0.5, 2.0, 10.0)


def pause_after(failed_starts: int) -> float:
    """Seconds until the next try, after so many workers that did not start."""
    return _PAUSES[min(failed_starts, len(_PAUSES)) - 1]


@dataclass(frozen=True)
class Task:
    """One attempt at a job: everything that a worker must know.

    Attributes:
        job: its id.
        owner: whose it is.
        plate, masks: on a disk that the worker reads.
        settings: validated, as a map.
        work_dir, results_dir: empty folders.
        cache_dir: for outputs of stages that another attempt or job may use again.
        log: file that takes what the worker prints.
    """

    job: str
    owner: str
    plate: Path
    masks: Path | None
    settings: dict
    work_dir: Path
    results_dir: Path
    cache_dir: Path
    log: Path

    def to_map(self) -> dict[str, Any]:
        """As a worker process receives it: text and maps only."""
        return {
            "plate": str(self.plate),
            "masks": None if self.masks is None else str(self.masks),
            "settings": self.settings,
            "work_dir": str(self.work_dir),
            "results_dir": str(self.results_dir),
            "cache_dir": str(self.cache_dir),
            "log": str(self.log),
        }


class ExecutorEvents(Protocol):
    """What an executor tells the queue, always in the server's thread.

    For each started job: any number of reports, and at the very end, once, that it is gone.
    """

    def on_room(self) -> None:
        """A job could be started now."""

    def on_report(self, job: str, report: dict) -> None:
        """What the job's worker sent: ``kind`` is progress, skip, preview, done or failed; see
        :mod:`megasam_server.service.worker`. It does nothing more after done or failed."""

    def on_gone(self, job: str, how: str) -> None:
        """Nothing of that attempt runs any more, and its files may be removed. ``how`` it ended is
        a part of a sentence: ``crashed (SIGSEGV)``."""

    def on_unable(self, why: str) -> None:
        """No worker can be started at all; it goes on trying. ``why`` is part of a sentence."""


class Executor(Protocol):
    """Runs jobs. Used by the server's thread."""

    @property
    def title(self) -> str:
        """Where jobs run, for the status: ``GPU 0, GPU 1``."""

    def open(self, events: ExecutorEvents) -> None:
        """Begin to make room; ``on_room`` follows."""

    def has_room(self) -> bool:
        """A job can be started at once."""

    def start(self, task: Task) -> str:
        """Start a job; only when there is room.

        Returns:
            Where it runs, for the log.
        """

    def stop(self, job: str) -> None:
        """End whatever runs for the job, however far it is, at once and whether it likes to or not;
        ``on_gone`` follows. A job that is not there is nothing to do."""

    def drain(self) -> None:
        """No job is started any more: give back what is only held for the next one."""

    def tick(self, now: float) -> None:
        """Called several times a second with monotonic seconds."""

    def close(self) -> None:
        """End everything; nothing runs when it returns, and no event follows."""
