"""The SQLite index of a state folder: its layout, the layouts of earlier versions, and damage."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from megasam_shared.errors import MegasamError

_log = logging.getLogger(__name__)

# What lies in a state folder.
INDEX_NAME = "jobs.sqlite3"
JOBS_FOLDER = "jobs"
BLOBS_FOLDER = "blobs"
CACHE_FOLDER = "cache"
WORKERS_FOLDER = "workers"

# One step per layout; PRAGMA user_version counts the steps that were taken.
_STEPS = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        submission TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        started REAL,
        finished REAL,
        starts INTEGER NOT NULL DEFAULT 0,
        request TEXT NOT NULL,
        error TEXT
    );
    CREATE INDEX jobs_by_state ON jobs (state, number);
    """,
    # Owners, priorities and a fair queue; what lies on the disk, whose it is and since when.
    """
    ALTER TABLE jobs RENAME TO old_jobs;
    DROP INDEX jobs_by_state;
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        submission TEXT NOT NULL,
        name TEXT NOT NULL,
        priority INTEGER NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        started REAL,
        finished REAL,
        ended REAL,
        attempts INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0,
        request TEXT NOT NULL,
        error TEXT,
        UNIQUE (owner, submission)
    );
    INSERT INTO jobs (number, id, owner, submission, name, priority, state, created, started,
                      finished, ended, attempts, request, error)
        SELECT number, id, '', submission, name, 50, state, created, started,
               finished, CASE WHEN finished IS NULL THEN NULL ELSE 0 END, starts, request, error
        FROM old_jobs;
    DROP TABLE old_jobs;
    CREATE INDEX jobs_by_state ON jobs (state, number);
    CREATE TABLE turns (owner TEXT PRIMARY KEY, turn INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE uploads (
        owner TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        size INTEGER NOT NULL,
        used REAL NOT NULL,
        PRIMARY KEY (owner, sha256)
    ) WITHOUT ROWID;
    CREATE TABLE clock (seconds REAL NOT NULL);
    INSERT INTO clock VALUES (0);
    """,
)
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class _Damaged(Exception):
    pass


def connect(state: Path) -> sqlite3.Connection:
    """A connection of its own to an index that :func:`open_index` has looked after.

    One that was opened in a thread may be used in another, by one at a time.
    """
    database = sqlite3.connect(state / INDEX_NAME, isolation_level=None, check_same_thread=False)
    database.row_factory = sqlite3.Row
    # Other connections of this server hold it for milliseconds.
    database.execute("PRAGMA busy_timeout = 10000")
    database.execute("PRAGMA synchronous = NORMAL")
    return database


def open_index(state: Path) -> sqlite3.Connection:
    """The index of a state folder, in today's layout.

    A file that is damaged is moved aside, never deleted: jobs have a copy of their row in their
    folders.

    Raises:
        MegasamError: ``state_unreadable``: no permission, or the layout of a newer version.
    """
    path = state / INDEX_NAME
    try:
        return _open(state)
    except _Damaged as damage:
        aside = _move_aside(path)
        _log.error(
            "the job index %s is damaged (%s): it is kept as %s, and the jobs are taken from their"
            " folders",
            *(path, damage, aside.name),
        )
        return _open(state)


def _open(state: Path) -> sqlite3.Connection:
    path = state / INDEX_NAME
    database: sqlite3.Connection | None = None
    try:
        database = connect(state)
        database.execute("PRAGMA journal_mode = WAL")
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _Damaged(found)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > len(_STEPS):
            raise MegasamError(
                "state_unreadable",
                f"The job index {path} was written by a newer version of MegaSAM (layout {version},"
                f" this version knows {len(_STEPS)}).",
                "Start the newer version again, or choose another --state.",
            )
        for number, step in enumerate(_STEPS[version:], start=version + 1):
            database.executescript(f"BEGIN; {step} PRAGMA user_version = {number}; COMMIT;")
        return database
    except sqlite3.Error as error:
        if database is not None:
            database.close()
        if error.sqlite_errorcode & 0xFF in _DAMAGE:
            raise _Damaged(str(error)) from None
        raise MegasamError(
            "state_unreadable",
            f"The job index {path} cannot be used: {error}.",
            "Check the permissions of its folder and the disk, or choose another --state.",
        ) from None
    except BaseException:
        if database is not None:
            database.close()
        raise


def _move_aside(path: Path) -> Path:
    """Rename the index and what belongs to it; returns its new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + suffix))
    return aside
