"""One server per state folder: two would run the same jobs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from megasam_shared.errors import MegasamError


class StateLock:
    """A lock on a state folder that ends with the process, however that ends.

    Raises:
        MegasamError: ``state_in_use`` or ``state_not_writable``.
    """

    def __init__(self, state: Path) -> None:
        try:
            state.mkdir(parents=True, exist_ok=True)
            self._file = os.open(state / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise MegasamError(
                "state_not_writable",
                f"The state folder {state} cannot be used: {error.strerror}.",
                "Choose another one with --state DIR.",
            ) from None
        try:
            _lock(self._file)
        except OSError:
            os.close(self._file)
            raise MegasamError(
                "state_in_use",
                f"Another solver server uses the state folder {state}.",
                "Stop it, or choose another folder with --state DIR.",
            ) from None

    def release(self) -> None:
        os.close(self._file)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
