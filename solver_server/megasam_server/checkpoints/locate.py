"""Where checkpoints lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from megasam_server.checkpoints.registry import Checkpoint, WeightFile

CHECKPOINTS_VARIABLE = "MEGASAM_CHECKPOINTS"


def checkpoint_folder(model_path: str = "") -> Path:
    """Where checkpoints are looked for: the setting, the environment variable, the user's data."""
    chosen = model_path or os.environ.get(CHECKPOINTS_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return platformdirs.user_data_path("megasam", appauthor=False) / "checkpoints"


def find_weights(checkpoint: Checkpoint, folder: Path) -> tuple[WeightFile, Path] | None:
    """The first of the checkpoint's files that is in ``folder``; None when there is none."""
    for file in checkpoint.files:
        path = folder / file.name
        if os.path.isfile(path):  # False also where the folder may not be read
            return file, path
    return None


def hash_cache_path() -> Path:
    """Where hashes of checkpoints are remembered, so that gigabytes are read only once."""
    return platformdirs.user_cache_path("megasam", appauthor=False) / "checkpoint_hashes.json"
