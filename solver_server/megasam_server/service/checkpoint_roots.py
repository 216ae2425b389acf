"""Where clients may choose checkpoints: below configured folders only, as with plates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.settings import SolveSettings

from megasam_server.service.client_paths import shown_path


class CheckpointRoots:
    """The folders that the setting ``model_path`` may name.

    Args:
        roots: existing folders; none means that every job takes the server's own checkpoints.
        any_folder: every folder may be named, for a server that only its own user reaches.

    Raises:
        MegasamError: ``checkpoint_root_missing``.
    """

    def __init__(self, roots: Sequence[Path] = (), any_folder: bool = False) -> None:
        self._any_folder = any_folder
        for root in roots:
            if not root.is_dir():
                raise MegasamError(
                    "checkpoint_root_missing",
                    f"The folder of checkpoints {root} is not a folder.",
                    "Create it or leave it out.",
                )
        self._roots = [Path(os.path.realpath(root)) for root in roots]

    def resolve(self, settings: SolveSettings) -> SolveSettings:
        """The settings with ``model_path`` as the folder that it leads to, if there is one.

        Raises:
            MegasamError: ``path_not_allowed``, whether or not anything is there.
        """
        asked = settings.model_path
        if not asked or self._any_folder:
            return settings
        if Path(asked).is_absolute():
            real = Path(os.path.realpath(asked))
            if any(real.is_relative_to(root) for root in self._roots):
                return replace(settings, model_path=str(real))
        raise MegasamError(
            "path_not_allowed",
            f"The server does not load checkpoints from {shown_path(asked)}: clients may name none of its"
            " folders but those that are shared for it.",
            "Leave model_path empty to use the server's checkpoints, or ask who runs the server to"
            " share the folder (media.checkpoint_roots in its config file).",
        )
