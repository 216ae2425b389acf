"""Where a person's settings of MegaSAM lie, on each system and without a library."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def config_folder() -> Path:
    """The folder for keys and known servers; it need not exist.

    ``MEGASAM_CONFIG_DIR`` wins; else ``%APPDATA%\\megasam`` on Windows, ``~/Library/Application
    Support/megasam`` on macOS, ``$XDG_CONFIG_HOME/megasam`` or ``~/.config/megasam`` elsewhere.
    """
    chosen = os.environ.get("MEGASAM_CONFIG_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("APPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Roaming") / "megasam"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "megasam"
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "megasam"
