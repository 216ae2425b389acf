"""Jobs on disk: an index in SQLite and one folder each, so that they outlive the server process."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import DEFAULT_PRIORITY, ErrorInfo, JobInfo, JobState, Result
from megasam_shared.wire import decode, encode

from megasam_server.service.job_folder import JobFolder, write_whole
from megasam_server.service.service_clock import ServiceClock
from megasam_server.service.spare_room import SpareRoom
from megasam_server.service.state_index import JOBS_FOLDER, open_index

_log = logging.getLogger(__name__)

MOST_ATTEMPTS = 2
_LISTED = 1000

# Higher priorities first; within one, owners take turns, each with its oldest job. Who was served
# longest ago has the next turn.
_FAIR_ORDER = """
SELECT waiting.* FROM (
    SELECT jobs.*, coalesce(turns.turn, 0) AS turn,
           row_number() OVER (PARTITION BY priority, owner ORDER BY number) AS round
    FROM jobs LEFT JOIN turns USING (owner) WHERE state = 'queued'
) AS waiting ORDER BY priority DESC, round, turn, number
"""


@dataclass(frozen=True)
class JobRecord:
    """One row of the index. ``plate`` and ``masks`` are paths on the server; ``owner`` is the public
    key of the client that submitted it, empty where clients have none; ``attempts`` counts the
    workers that were given the job."""

    id: str
    owner: str
    name: str
    priority: int
    state: JobState
    created: float
    started: float | None
    finished: float | None
    attempts: int
    plate: str
    masks: str | None
    settings: dict
    error: ErrorInfo | None


class JobStore:
    """All jobs of one state folder. Used by one thread.

    A job index that is missing or damaged is made again from the jobs' folders.

    Args:
        state: the state folder, locked by this process.
        wall: seconds since the epoch, for people to read.
        monotonic: seconds of a clock that never goes back, for everything that is decided.

    Attributes:
        clock: what expiry counts by.

    Raises:
        MegasamError: ``state_unreadable`` when the index cannot be opened.
    """

    def __init__(
        self,
        state: Path,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = state / JOBS_FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._wall = wall
        self._spare = SpareRoom(state)
        self._db = open_index(state)
        (seconds,) = self._db.execute("SELECT seconds FROM clock").fetchone()
        self.clock = ServiceClock(seconds, monotonic)
        self._look_after_folders()

    def close(self) -> None:
        with contextlib.suppress(MegasamError):
            self.save_clock()
        self._db.close()

    def save_clock(self) -> None:
        """Remember how long this server has run; a kill loses what came after."""
        self._write("UPDATE clock SET seconds = ?", (self.clock.now(),))
        self._spare.take()

    def new_id(self) -> str:
        """A random name for a job that does not exist yet."""
        return secrets.token_hex(16)

    def folder_of(self, job: str) -> JobFolder:
        return JobFolder(self._folder / job)

    def add(
        self,
        job: str,
        owner: str,
        submission: str,
        name: str,
        plate: Path,
        masks: Path | None,
        settings: dict,
        priority: int = DEFAULT_PRIORITY,
    ) -> JobRecord:
        """Queue a job whose files are in place.

        Raises:
            MegasamError: ``server_disk_full``.
        """
        request = {
            "plate": str(plate),
            "masks": None if masks is None else str(masks),
            "settings": settings,
        }
        columns = {
            "id": job,
            "owner": owner,
            "submission": submission,
            "name": name,
            "priority": priority,
            "state": "queued",
            "created": self._wall(),
            "started": None,
            "finished": None,
            "ended": None,
            "attempts": 0,
            "bytes": 0,
            "request": json.dumps(request),
            "error": None,
        }
        self._spare.do(lambda: self.folder_of(job).write_record(columns))
        self._insert(columns)
        return self.get(job)

    def get(self, job: str) -> JobRecord:
        """Raises:
        MegasamError: ``job_unknown``.
        """
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        if row is None:
            raise self.unknown(job)
        return _record(row)

    @staticmethod
    def unknown(job: str) -> MegasamError:
        """The error for a job that is not there."""
        return MegasamError(
            "job_unknown",
            f"The server knows no job {job}.",
            "It may have been cleaned up; list the jobs to see what is there.",
        )

    def find_submission(self, owner: str, submission: str) -> JobRecord | None:
        row = self._db.execute(
            "SELECT * FROM jobs WHERE owner = ? AND submission = ?", (owner, submission)
        ).fetchone()
        return None if row is None else _record(row)

    # --- the queue

    def next_queued(self) -> JobRecord | None:
        """The job whose turn it is."""
        row = self._db.execute(f"{_FAIR_ORDER} LIMIT 1").fetchone()
        return None if row is None else _record(row)

    def queue_length(self, owner: str | None = None) -> int:
        """How many jobs wait; of one owner, or of all."""
        (count,) = self._db.execute(
            "SELECT count(*) FROM jobs WHERE state = 'queued' AND (?1 IS NULL OR owner = ?1)",
            (owner,),
        ).fetchone()
        return count

    def count_by_state(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        rows = self._db.execute("SELECT state, count(*) AS count FROM jobs GROUP BY state")
        return dict.fromkeys(get_args(JobState), 0) | {row["state"]: row["count"] for row in rows}

    def check_room_in_queue(self, owner: str, limit: int, limit_of_owner: int | None) -> None:
        """Raises:
        MegasamError: ``queue_full`` when one more job of ``owner`` may not wait.
        """
        if self.queue_length() >= limit:
            raise MegasamError(
                "queue_full",
                f"{limit} jobs are waiting already, which is all that the server keeps.",
                "Submit again when some of them are over.",
            )
        if limit_of_owner is not None and self.queue_length(owner) >= limit_of_owner:
            raise MegasamError(
                "queue_full",
                f"{limit_of_owner} of your jobs are waiting already, which is all that one client"
                " may have.",
                "Submit again when some of them are over, or cancel one.",
            )

    def start(self, job: str) -> None:
        """A worker gets the job: one more attempt, and its owner had a turn.

        Raises:
            MegasamError: ``server_disk_full``.
        """
        self._change(job, "state = 'running', started = ?, attempts = attempts + 1", self._wall())
        self._write(
            "INSERT INTO turns SELECT owner, 1 + (SELECT coalesce(max(turn), 0) FROM turns)"
            " FROM jobs WHERE id = ? ON CONFLICT DO UPDATE SET turn = excluded.turn",
            (job,),
        )

    def put_back(self, job: str) -> None:
        """Queue a job again whose run was stopped in good order, at its old place: that was no
        attempt."""
        self._change(job, "state = 'queued', started = NULL, attempts = attempts - 1")

    def retry(self, job: str) -> None:
        """Queue a job again whose worker died, at its old place."""
        self._change(job, "state = 'queued', started = NULL")

    def recover(self) -> list[JobRecord]:
        """After a server died: queue its running jobs again.

        Returns:
            The jobs that have been tried too often and should be failed instead: whatever takes
            the server down must not do so for ever.
        """
        rows = self._db.execute("SELECT * FROM jobs WHERE state = 'running'").fetchall()
        running = [_record(row) for row in rows]
        for record in running:
            if record.attempts < MOST_ATTEMPTS:
                self.retry(record.id)
        return [record for record in running if record.attempts >= MOST_ATTEMPTS]

    # --- the end

    def finish(self, result: Result) -> None:
        """Record the end of a job; the message is kept for clients that attach later.

        Raises:
            MegasamError: ``server_disk_full``.
        """
        folder = self.folder_of(result.job)
        self._spare.do(lambda: write_whole(folder.result_message, encode(result)))
        error = None if result.error is None else json.dumps(result.error.to_error().to_map())
        self._change(
            result.job,
            "state = ?, finished = ?, ended = ?, bytes = ?, error = ?",
            *(result.state, self._wall(), self.clock.now()),
            *(sum(artefact.size for artefact in result.artefacts), error),
        )

    def result_of(self, job: str, request: int) -> Result:
        """The kept end of a job as answer to ``request``.

        Raises:
            MegasamError: ``job_unknown``, ``job_not_over`` or ``result_missing``.
        """
        record = self.get(job)
        if record.finished is None:
            raise MegasamError("job_not_over", f"Job {job} is {record.state}: no result yet.")
        try:
            kept = decode(self.folder_of(job).result_message.read_bytes())
        except (OSError, MegasamError):
            if record.state != "done":
                return Result(request, job, record.state, {}, [], record.error)
            raise MegasamError(
                "result_missing",
                f"The result of job {job} is no longer on the server's disk.",
                "Solve the plate again.",
            ) from None
        return Result(request, kept.job, kept.state, kept.result, kept.artefacts, kept.error)

    # --- what clients see

    def info(self, job: str) -> JobInfo:
        """The job as clients see it."""
        record = self.get(job)
        return _info(record, self._positions() if record.state == "queued" else {})

    def newest(self, owner: str | None = None) -> list[JobInfo]:
        """The last jobs, newest first; of one owner, or of all."""
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE ?1 IS NULL OR owner = ?1"
            f" ORDER BY number DESC LIMIT {_LISTED}",
            (owner,),
        )
        positions = self._positions()
        return [_info(_record(row), positions) for row in rows.fetchall()]

    def _positions(self) -> dict[str, int]:
        """How many jobs run before each waiting one, if no others come."""
        rows = self._db.execute(f"SELECT id FROM ({_FAIR_ORDER})").fetchall()
        return {row["id"]: position for position, row in enumerate(rows)}

    # --- index and folders

    def _change(self, job: str, assignments: str, *values: object) -> None:
        """Change a job's row, and the copy of it in its folder."""
        self._write(f"UPDATE jobs SET {assignments} WHERE id = ?", (*values, job))
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        columns = dict(row)
        del columns["number"]
        self._spare.do(lambda: self.folder_of(job).write_record(columns))

    def _insert(self, columns: dict) -> None:
        names = ", ".join(columns)
        places = ", ".join("?" * len(columns))
        self._write(f"INSERT INTO jobs ({names}) VALUES ({places})", tuple(columns.values()))

    def _write(self, statement: str, values: tuple) -> None:
        self._spare.do(lambda: self._db.execute(statement, values))

    def _look_after_folders(self) -> None:
        """Make folders and rows agree: after a kill in between, or when the index was lost."""
        known = {row["id"] for row in self._db.execute("SELECT id FROM jobs")}
        unknown = [JobFolder(p) for p in self._folder.iterdir() if p.name not in known]
        adopted = []
        for folder in unknown:
            if not folder.record.exists():
                _log.info("removing %s: no job belongs to it", folder.path)
                shutil.rmtree(folder.path, ignore_errors=True)
            elif (columns := self._columns_of(folder)) is not None:
                adopted.append(columns)
            else:
                _log.error("%s cannot be read, its job is lost", folder.record)
        for columns in sorted(adopted, key=lambda columns: columns["created"]):
            self._insert(columns)
        if adopted:
            _log.warning("%d jobs were taken from their folders into the index", len(adopted))

    def _columns_of(self, folder: JobFolder) -> dict | None:
        """The row of a job that the index does not have, from its folder; None when damaged."""
        columns = folder.read_record() or {}
        wanted = {row["name"] for row in self._db.execute("PRAGMA table_info(jobs)")} - {"number"}
        if not wanted <= set(columns) or columns["id"] != folder.path.name:
            return None
        columns = {name: columns[name] for name in wanted}
        # The clock that it ended by may be lost with the index: it has its whole time again.
        columns["ended"] = None if columns["finished"] is None else self.clock.now()
        return columns


def _record(row) -> JobRecord:
    request = json.loads(row["request"])
    error = json.loads(row["error"]) if row["error"] else None
    return JobRecord(
        id=row["id"],
        owner=row["owner"],
        name=row["name"],
        priority=row["priority"],
        state=row["state"],
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
        attempts=row["attempts"],
        plate=request["plate"],
        masks=request["masks"],
        settings=request["settings"],
        error=None if error is None else ErrorInfo(**error),
    )


def _info(record: JobRecord, positions: dict[str, int]) -> JobInfo:
    return JobInfo(
        job=record.id,
        name=record.name,
        state=record.state,
        created=record.created,
        started=record.started,
        finished=record.finished,
        position=positions.get(record.id, 0),
        error=record.error,
        priority=record.priority,
        attempts=record.attempts,
    )
