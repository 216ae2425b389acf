"""Jobs on disk: an index in SQLite and one folder each, so that they outlive the server process."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import ErrorInfo, JobInfo, JobState, Result
from megasam_shared.wire import decode, encode

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    submission TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    starts INTEGER NOT NULL DEFAULT 0,
    request TEXT NOT NULL,
    error TEXT,
    UNIQUE (owner, submission)
);
CREATE INDEX jobs_by_state ON jobs (state, number);
"""
_MOST_STARTS = 2
_LISTED = 1000


@dataclass(frozen=True)
class JobFolder:
    """Where the parts of one job lie; the only place that knows their names."""

    path: Path

    @property
    def plate(self) -> Path:
        return self.path / "plate"

    @property
    def masks(self) -> Path:
        return self.path / "masks"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def log(self) -> Path:
        return self.path / "worker.log"

    @property
    def result_message(self) -> Path:
        return self.path / "result.msgpack"

    def make_ready(self) -> None:
        """Empty work and result folders for a run."""
        for folder in (self.work, self.results):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def clean(self, keep_results: bool) -> None:
        """Remove what a job that is over does not need: its scratch, its links to the uploads, and
        results that are not finished."""
        kept = {self.log, self.result_message}
        if keep_results:
            kept.add(self.results)
        for path in set(self.path.iterdir()) - kept:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class JobRecord:
    """One row of the index. ``plate`` and ``masks`` are paths on the server; ``owner`` is the public
    key of the client that submitted it, empty where clients have none."""

    id: str
    owner: str
    name: str
    state: JobState
    created: float
    started: float | None
    finished: float | None
    starts: int
    plate: str
    masks: str | None
    settings: dict
    error: ErrorInfo | None


class JobStore:
    """All jobs of one state folder. Used by one thread.

    Raises:
        MegasamError: ``state_unreadable`` when the index cannot be opened.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / "jobs"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = state / "jobs.sqlite3"
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
                )
            elif version != _SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"its layout is version {version}")
        except sqlite3.Error as error:
            raise MegasamError(
                "state_unreadable",
                f"The job index {path} cannot be used: {error}.",
                "Move the file away to begin with an empty index, or choose another --state.",
            ) from None

    def close(self) -> None:
        self._db.close()

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
    ) -> JobRecord:
        """Queue a job whose files are in place."""
        request = {
            "plate": str(plate),
            "masks": None if masks is None else str(masks),
            "settings": settings,
        }
        self._db.execute(
            "INSERT INTO jobs (id, owner, submission, name, state, created, request)"
            " VALUES (?, ?, ?, ?, 'queued', ?, ?)",
            (job, owner, submission, name, time.time(), json.dumps(request)),
        )
        return self.get(job)

    def get(self, job: str) -> JobRecord:
        """Raises:
        MegasamError: ``job_unknown``.
        """
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        if row is None:
            raise MegasamError(
                "job_unknown",
                f"The server knows no job {job}.",
                "It may have been cleaned up; list the jobs to see what is there.",
            )
        return _record(row)

    def find_submission(self, owner: str, submission: str) -> JobRecord | None:
        row = self._db.execute(
            "SELECT * FROM jobs WHERE owner = ? AND submission = ?", (owner, submission)
        ).fetchone()
        return None if row is None else _record(row)

    def next_queued(self) -> JobRecord | None:
        """The job that waits longest."""
        row = self._db.execute(
            "SELECT * FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1"
        ).fetchone()
        return None if row is None else _record(row)

    def queue_length(self) -> int:
        return self._db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]

    def info(self, job: str) -> JobInfo:
        """The job as clients see it."""
        return self._info(self.get(job))

    def newest(self, owner: str | None = None) -> list[JobInfo]:
        """The last jobs, newest first; of one owner, or of all."""
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE ?1 IS NULL OR owner = ?1"
            f" ORDER BY number DESC LIMIT {_LISTED}",
            (owner,),
        )
        return [self._info(_record(row)) for row in rows.fetchall()]

    def start(self, job: str) -> None:
        self._db.execute(
            "UPDATE jobs SET state = 'running', started = ?, starts = starts + 1 WHERE id = ?",
            (time.time(), job),
        )

    def finish(self, result: Result) -> None:
        """Record the end of a job; the message is kept for clients that attach later."""
        path = self.folder_of(result.job).result_message
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(encode(result))
        temporary.replace(path)
        error = None if result.error is None else json.dumps(result.error.to_error().to_map())
        self._db.execute(
            "UPDATE jobs SET state = ?, finished = ?, error = ? WHERE id = ?",
            (result.state, time.time(), error, result.job),
        )

    def put_back(self, job: str) -> None:
        """Queue a job again whose run was stopped in good order, at its old place."""
        self._db.execute(
            "UPDATE jobs SET state = 'queued', started = NULL, starts = starts - 1 WHERE id = ?",
            (job,),
        )

    def recover(self) -> list[JobRecord]:
        """After a server died: queue its running jobs again.

        Returns:
            The jobs that have been started too often and should be failed instead: whatever
            takes the server down must not do so for ever.
        """
        rows = self._db.execute("SELECT * FROM jobs WHERE state = 'running'").fetchall()
        worn_out = [_record(row) for row in rows if row["starts"] >= _MOST_STARTS]
        self._db.execute(
            "UPDATE jobs SET state = 'queued', started = NULL"
            " WHERE state = 'running' AND starts < ?",
            (_MOST_STARTS,),
        )
        return worn_out

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

    def _info(self, record: JobRecord) -> JobInfo:
        position = 0
        if record.state == "queued":
            position = self._db.execute(
                "SELECT count(*) FROM jobs WHERE state = 'queued' AND number <"
                " (SELECT number FROM jobs WHERE id = ?)",
                (record.id,),
            ).fetchone()[0]
        return JobInfo(
            job=record.id,
            name=record.name,
            state=record.state,
            created=record.created,
            started=record.started,
            finished=record.finished,
            position=position,
            error=record.error,
        )


def _record(row: sqlite3.Row) -> JobRecord:
    request = json.loads(row["request"])
    error = json.loads(row["error"]) if row["error"] else None
    return JobRecord(
        id=row["id"],
        owner=row["owner"],
        name=row["name"],
        state=row["state"],
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
        starts=row["starts"],
        plate=request["plate"],
        masks=request["masks"],
        settings=request["settings"],
        error=None if error is None else ErrorInfo(**error),
    )
