"""The worker processes of a state folder, written down so that the next server finds them.

A worker ends when its server is gone, but not while a library neither returns nor lets Python's
other threads run. Such a one would keep its GPU memory for ever; the next server ends it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

import psutil

_log = logging.getLogger(__name__)


class WorkerNotes:
    """One empty file for each worker, named for its process.

    Args:
        folder: made when it is not there; only the server that holds the state folder's lock uses
            it. Its path is also in the command line of each worker.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def mark(self) -> str:
        """What is in the command line of a worker: numbers of processes are used again."""
        return str(self._folder)

    def add(self, pid: int) -> None:
        """A worker was started. A disk without room is no reason not to work."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / str(pid)).touch()

    def remove(self, pid: int) -> None:
        """It is gone."""
        (self._folder / str(pid)).unlink(missing_ok=True)

    def end_leftovers(self) -> None:
        """End the workers of a server that was killed, with everything that they started."""
        for path in self._folder.glob("*"):
            with contextlib.suppress(psutil.Error, ValueError):
                process = psutil.Process(int(path.name))
                if self.mark in process.cmdline():
                    _log.warning("ending worker process %d of an earlier server", process.pid)
                    _end(process)
            path.unlink(missing_ok=True)


def _end(process: psutil.Process) -> None:
    if sys.platform == "win32":
        for each in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.Error):
                each.kill()
    else:
        # Workers lead a process group of their own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
