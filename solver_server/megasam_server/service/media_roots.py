"""Plates that a client names by path: only pictures and movies below configured folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.sequence import find_sequence, is_image, is_movie


class MediaRoots:
    """The folders that a server shares with its clients.

    Args:
        roots: existing folders; none means that every plate must be uploaded.

    Raises:
        MegasamError: ``media_root_missing``.
    """

    def __init__(self, roots: Sequence[Path] = ()) -> None:
        for root in roots:
            if not root.is_dir():
                raise MegasamError(
                    "media_root_missing",
                    f"The media root {root} is not a folder.",
                    "Create it or leave it out.",
                )
        self._roots = [Path(os.path.realpath(root)) for root in roots]

    def resolve(self, path: str) -> Path:
        """The plate at ``path``: a movie, a frame, or a folder of frames.

        Symbolic links are followed first, for each frame too; what counts is where the bytes lie.

        Raises:
            MegasamError: ``path_not_allowed`` (the message does not tell whether the file
                exists), ``not_media``, or what :func:`find_sequence` says about files inside.
        """
        asked = Path(path) if "\0" not in path else None
        if asked is None or not asked.is_absolute() or ".." in asked.parts:
            raise _refused(path)
        real = self._real_below_root(path)
        if real is None:
            raise _refused(path)
        if real.is_file() and is_movie(real):
            return real
        if not real.is_dir() and not (real.is_file() and is_image(real)):
            raise MegasamError(
                "not_media",
                f"{path} is neither a movie nor a picture nor a folder of pictures.",
                "Name a plate that exists below a media root of the server.",
            )
        for file in find_sequence(real).files:
            if self._real_below_root(str(file)) is None:
                raise _refused(str(file))
        return real

    def _real_below_root(self, path: str) -> Path | None:
        try:
            real = Path(os.path.realpath(path, strict=True))
        except (OSError, ValueError):
            return None
        return real if any(real.is_relative_to(root) for root in self._roots) else None


def _refused(path: str) -> MegasamError:
    shown = path[:200].encode("unicode_escape").decode()
    return MegasamError(
        "path_not_allowed",
        f"The server does not open {shown}: it is not a plate below one of its media roots.",
        "Upload the plate, or start the server with --media-root FOLDER.",
    )
