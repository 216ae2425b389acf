"""The solves that this user has started, so that none is lost with a crash.

The server keeps the job; this file remembers which server, which plate and where the results
belong. Maya and the standalone window share it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from megasam_shared.config_folder import config_folder

from megasam_maya.saved_json import read_json, write_json

_log = logging.getLogger(__name__)

_MOST_RECORDS = 200
_TYPES = {"created": (int, float), "values": (dict,)}


@dataclass(frozen=True)
class JobRecord:
    """One solve.

    Attributes:
        job: the server's id. server: its address.
        name, plate: of the plate.
        folder: where the results lie, or will lie once they are fetched.
        created: seconds since the epoch.
        state: the last that was heard: a state of the protocol, or ``fetched``.
        verdict: of the quality; empty before the end.
        values: what the dialog wants back for this job (frame mapping, film back).
    """

    job: str
    server: str
    name: str
    plate: str
    folder: str
    created: float
    state: str = "queued"
    verdict: str = ""
    values: Mapping[str, Any] | None = None


class JobHistory:
    """The records, newest first; safe to use from several threads and programs.

    Args:
        path: the file; by default ``jobs.json`` in the config folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or config_folder() / "jobs.json"
        self._lock = threading.Lock()

    def records(self) -> list[JobRecord]:
        entries = read_json(self._path, [])
        return [record for entry in entries if (record := _record(entry)) is not None]

    def add(self, record: JobRecord) -> None:
        with self._lock:
            self._write(record, [r for r in self.records() if r.job != record.job])

    def update(self, job: str, **changes: Any) -> JobRecord | None:
        """Change entries of a record; None when the job is not in the history."""
        with self._lock:
            records = self.records()
            old = next((r for r in records if r.job == job), None)
            if old is None:
                return None
            new = replace(old, **changes)
            if new != old:
                self._write(new, [r for r in records if r.job != job])
            return new

    def _write(self, record: JobRecord, others: list[JobRecord]) -> None:
        records = sorted([record, *others], key=lambda r: r.created, reverse=True)
        try:
            write_json(self._path, [asdict(r) for r in records[:_MOST_RECORDS]])
        except OSError as error:
            # The solve matters more than its entry in a list.
            _log.warning("The job history %s cannot be written: %s", self._path, error)


def _record(entry: Any) -> JobRecord | None:
    if not isinstance(entry, dict):
        return None
    known = {f.name: entry[f.name] for f in fields(JobRecord) if entry.get(f.name) is not None}
    if not all(isinstance(value, _TYPES.get(name, (str,))) for name, value in known.items()):
        return None
    try:
        return JobRecord(**known)
    except TypeError:
        return None
