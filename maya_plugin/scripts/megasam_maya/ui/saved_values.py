"""What the dialog remembers between sessions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from megasam_shared.config_folder import config_folder

from megasam_maya.saved_json import read_json, write_json

_log = logging.getLogger(__name__)


class SavedValues:
    """A map in a JSON file; by default ``dialog.json`` in the config folder."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or config_folder() / "dialog.json"

    def load(self) -> dict[str, Any]:
        """The last values; empty the first time, or when the file is damaged."""
        return read_json(self._path, {})

    def save(self, values: dict[str, Any]) -> None:
        try:
            write_json(self._path, values)
        except OSError as error:
            _log.warning("The dialog's values cannot be kept in %s: %s", self._path, error)
