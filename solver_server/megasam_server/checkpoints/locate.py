"""Where checkpoints lie on this machine: in a folder of the user's, and, built in, in the package."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import platformdirs

from megasam_server.checkpoints.registry import BUILT_IN, Checkpoint, WeightFile

CHECKPOINTS_VARIABLE = "MEGASAM_CHECKPOINTS"
BUILT_IN_VARIABLE = "MEGASAM_BUILT_IN_WEIGHTS"
"""Folder of weights in place of the package's: of another training run, or an empty one for none."""

PACKAGED = Path(__file__).parents[1] / "weights"
"""Folder of the built-in weights, one folder for each network."""


def checkpoint_folder(model_path: str = "") -> Path:
    """Where checkpoints are looked for: the setting, the environment variable, the user's data."""
    chosen = model_path or os.environ.get(CHECKPOINTS_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return platformdirs.user_data_path("megasam", appauthor=False) / "checkpoints"


def find_weights(checkpoint: Checkpoint, folder: Path) -> tuple[WeightFile, Path] | None:
    """The first of the checkpoint's files that is there; None when there is none.

    Args:
        folder: where all but the built-in ones are looked for.
    """
    exchanged = os.environ.get(BUILT_IN_VARIABLE) if checkpoint.built_in else None
    if checkpoint.built_in:
        folder = Path(exchanged).expanduser() if exchanged else PACKAGED
    for file in checkpoint.files:
        path = folder / file.name
        if os.path.isfile(path):  # False also where the folder may not be read
            # What is known of the package's file says nothing of one in its place.
            return (replace(file, size=None, sha256=None) if exchanged else file), path
    return None


def built_in_here() -> list[Checkpoint]:
    """The built-in checkpoints whose file is there, whatever it holds."""
    return [checkpoint for checkpoint in BUILT_IN if find_weights(checkpoint, PACKAGED)]


def hash_cache_path() -> Path:
    """Where hashes of checkpoints are remembered, so that gigabytes are read only once."""
    return platformdirs.user_cache_path("megasam", appauthor=False) / "checkpoint_hashes.json"
