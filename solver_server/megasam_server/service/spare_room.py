"""A few megabytes that are given up when the disk is full, so that jobs can still be ended."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from megasam_shared.errors import MegasamError

_SIZE = 4 << 20
# Where less than this is free, the room is not taken back.
_COMFORT = 64 << 20
FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}

# The second one: a limit on the size of files; the third: no room for the index of the log.
_SQLITE_FULL = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"}

_Returned = TypeVar("_Returned")


class SpareRoom:
    """A file in the state folder that takes up room until it is needed.

    A solve can fill the disk to the last byte; that it failed must still be written down.

    Args:
        folder: the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "spare-room"
        self.take()

    def take(self) -> None:
        """Take up the room, if it is not taken and there is plenty."""
        if self._path.exists() or shutil.disk_usage(self._path.parent).free < _COMFORT:
            return
        try:
            # Random: a disk that compresses would give nothing back for zeros.
            self._path.write_bytes(os.urandom(_SIZE))
        except OSError:
            self.give_up()

    def give_up(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def do(self, write: Callable[[], _Returned]) -> _Returned:
        """Call ``write``; if the disk is full, make room and call it once more.

        Raises:
            MegasamError: ``server_disk_full``.
        """
        try:
            return write()
        except (OSError, sqlite3.Error) as error:
            if not is_full(error):
                raise
        self.give_up()
        try:
            return write()
        except (OSError, sqlite3.Error) as error:
            if not is_full(error):
                raise
            raise disk_full("the job could not be written down") from error


def is_full(error: OSError | sqlite3.Error) -> bool:
    """The system's or SQLite's word for a disk without room."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return getattr(error, "sqlite_errorname", "") in _SQLITE_FULL


def disk_full(what: str) -> MegasamError:
    """The error for a server without room."""
    return MegasamError(
        "server_disk_full",
        f"The disk of the solver server is full: {what}.",
        "Free space in its state folder, then submit again.",
    )
