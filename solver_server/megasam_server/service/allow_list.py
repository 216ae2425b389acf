"""The clients that a server admits, from a file that may change while the server runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.keys import KeyList

_log = logging.getLogger(__name__)


class AllowList:
    """Public keys and names of the clients that may come in.

    Args:
        path: file of ``NAME KEY`` lines; one that is not there admits nobody.

    Raises:
        MegasamError: ``key_list_unreadable``, ``key_not_private``.
    """

    def __init__(self, path: Path) -> None:
        self._list = KeyList(path)
        self._seen = self._mark()
        self._names = {key: name for name, key in self._list.read().items()}

    def name_of(self, key: str) -> str | None:
        """What the client with that public key is called; None when it is not admitted."""
        return self._names.get(key)

    def reload(self) -> bool:
        """Read the file again when it has changed; True when it had.

        A file that cannot be understood is logged, and what was read before stays: an
        administrator's typing error does not lock a studio out.
        """
        mark = self._mark()
        if mark == self._seen:
            return False
        self._seen = mark
        try:
            self._names = {key: name for name, key in self._list.read().items()}
        except MegasamError as error:
            _log.error("the list of allowed clients stays as it was: %s", error)
            return False
        _log.info("%d clients are allowed now", len(self._names))
        return True

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            stat = os.stat(self._list.path)
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
