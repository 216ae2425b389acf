"""What a worker writes into its job's folder, passed on to the server's log while it runs.

The file is read, not a pipe: what a worker wrote before it crashed is there, wherever it ran.
"""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path

from megasam_server.service.server_log import JobLog

_log = logging.getLogger("megasam_server.worker")

WORKER_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)", re.DOTALL
)
_MOST_AT_ONCE = 1 << 16
_LONGEST_LINE = 2000


class WorkerLog:
    """Reads on where it stopped. Safe to use from several threads.

    Args:
        path: the log in the job's folder; what is in it now was passed on before.
        job: its id.
    """

    def __init__(self, path: Path, job: str) -> None:
        self._path = path
        self._log = JobLog(_log, job)
        self._lock = threading.Lock()
        try:
            self._read_to = path.stat().st_size
        except OSError:
            self._read_to = 0

    def pass_on(self, is_over: bool = False) -> None:
        """Log the lines that are new; of a worker that floods its log, the last 64 KiB.

        Args:
            is_over: nothing more comes, so a last line without an end is one, too.
        """
        with self._lock:
            for line in self._new_lines(is_over):
                found = _LINE.fullmatch(line)
                level = logging.getLevelName(found[1]) if found else logging.INFO
                text = found[2] if found else line
                if text.strip():
                    self._log.log(level, "%s", text[:_LONGEST_LINE])

    def _new_lines(self, is_over: bool) -> list[str]:
        try:
            with self._path.open("rb") as file:
                left_out = file.seek(0, 2) - self._read_to - _MOST_AT_ONCE
                if left_out > 0:
                    self._read_to += left_out
                    self._log.warning("%d bytes are left out here, see %s", left_out, self._path)
                file.seek(self._read_to)
                data = file.read(_MOST_AT_ONCE)
        except OSError:
            return []
        whole = len(data) if is_over or len(data) == _MOST_AT_ONCE else data.rfind(b"\n") + 1
        self._read_to += whole
        return data[:whole].decode("utf-8", "replace").splitlines()
