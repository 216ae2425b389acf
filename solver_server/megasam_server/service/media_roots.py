"""Plates that a client names by path: only pictures and movies below configured folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.sequence import find_sequence, is_image, is_movie

from megasam_server.service.client_paths import (
    ClientPrefix,
    is_absolute,
    look_up,
    parts_of,
    shown_path,
)
from megasam_server.service.options import EVERY_CLIENT

_LONGEST = 4096
# How a server tells its workers which folders are roots.
MEDIA_ROOTS_VARIABLE = "MEGASAM_MEDIA_ROOTS"


@dataclass(frozen=True)
class _Mapped:
    """A prefix of a client's paths and the folder here that it means."""

    prefix: ClientPrefix
    folder: Path


class MediaRoots:
    """The folders that a server shares with its clients.

    Args:
        roots: existing folders that every client may name as they are called here; none means that
            every plate must be uploaded or named below a mapped prefix.
        prefix_maps: client name, or ``*`` for every client, to {prefix there: folder here}. The
            folder is a root for these clients. Prefixes are compared as the client's system does:
            those of Windows (``Z:/shows``, ``//server/share``) without case and with either slash.

    Raises:
        MegasamError: ``media_root_missing`` or ``prefix_malformed``.
    """

    def __init__(
        self,
        roots: Sequence[Path] = (),
        prefix_maps: Mapping[str, Mapping[str, Path]] | None = None,
    ) -> None:
        self._roots = [_existing(root) for root in roots]
        self._maps = {
            client: [
                _Mapped(ClientPrefix(prefix), _existing(folder)) for prefix, folder in m.items()
            ]
            for client, m in (prefix_maps or {}).items()
        }

    def roots_of(self, client: str) -> list[Path]:
        """The folders that a client may read from."""
        return [*self._roots, *(mapped.folder for mapped in self._mapped(client))]

    def to_text(self) -> str:
        """All roots of all clients, for the environment of workers."""
        mapped = [m.folder for maps in self._maps.values() for m in maps]
        return os.pathsep.join(map(str, dict.fromkeys([*self._roots, *mapped])))

    def resolve(self, path: str, client: str = "") -> Path:
        """The plate at ``path``: a movie, a frame, a pattern, or a folder of frames.

        Symbolic links are followed first, for each frame too; what counts is where the bytes lie.
        Nothing protects a path that changes afterwards: :func:`check_still_below_roots` asks
        again where the files are opened.

        Args:
            client: name on the allow-list.

        Raises:
            MegasamError: ``path_not_allowed`` (the message does not tell whether the file
                exists), ``not_media``, or what :func:`find_sequence` says about files inside.
        """
        roots = self.roots_of(client)
        for candidate in self._candidates(path, client):
            real = _real_below(candidate, roots)
            if real is not None:
                return _plate_at(real, path, roots)
        raise _refused(path)

    def _candidates(self, path: str, client: str) -> list[Path]:
        """What the path may mean here; the longest prefix first."""
        if "\0" in path or not path or len(path) > _LONGEST or not is_absolute(path):
            return []
        parts = parts_of(path)
        if ".." in parts:
            return []
        found = []
        for mapped in sorted(self._mapped(client), key=lambda m: -len(m.prefix.parts)):
            rest = mapped.prefix.rest_of(path)
            if rest is not None:
                found.append(look_up(mapped.folder, rest, mapped.prefix.is_windows))
        if Path(path).is_absolute():
            found.append(Path(path))
        return found

    def _mapped(self, client: str) -> list[_Mapped]:
        own = self._maps.get(client, []) if client != EVERY_CLIENT else []
        return [*own, *self._maps.get(EVERY_CLIENT, [])]


def check_still_below_roots(plates: Sequence[Path | None], own_folder: Path) -> None:
    """Refuse plates that are no longer where :meth:`MediaRoots.resolve` found them; for workers.

    Between a submission and its turn in the queue a folder may have become a link to elsewhere;
    whoever opens the files asks once more, directly before.

    Args:
        plates: plate and masks; those in ``own_folder``, the job's, were uploaded.

    Raises:
        MegasamError: ``path_not_allowed``.
    """
    roots = [Path(p) for p in os.environ.get(MEDIA_ROOTS_VARIABLE, "").split(os.pathsep) if p]
    for plate in plates:
        if plate is None or plate.is_relative_to(own_folder):
            continue
        if _real_below(plate, roots) != plate:
            raise _refused(str(plate))
        if not is_movie(plate):
            _check_frames(plate, roots)


def _plate_at(real: Path, asked: str, roots: Sequence[Path]) -> Path:
    if real.is_file() and is_movie(real):
        return real
    if not real.is_dir() and not is_image(real):
        raise MegasamError(
            "not_media",
            f"{shown_path(asked)} is neither a movie nor a picture nor a folder of pictures.",
            "Name a plate that exists below a media root of the server.",
        )
    _check_frames(real, roots)
    return real


def _check_frames(plate: Path, roots: Sequence[Path]) -> None:
    for file in find_sequence(plate).files:
        if _real_below(file, roots) is None:
            raise _refused(str(file))


def _real_below(path: Path, roots: Sequence[Path]) -> Path | None:
    """Where the path leads without any link; None outside of the roots or where nothing is.

    A pattern (``plate.%04d.exr``) is no file: there the folder decides.
    """
    try:
        if _is_pattern(path.name):
            real = Path(os.path.realpath(path.parent, strict=True)) / path.name
        else:
            real = Path(os.path.realpath(path, strict=True))
    except (OSError, ValueError):
        return None
    return real if any(real.is_relative_to(root) for root in roots) else None


def _is_pattern(name: str) -> bool:
    """Whether a file name stands for the frames of a sequence."""
    return any(sign in name for sign in "%#*")


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise MegasamError(
            "media_root_missing",
            f"The media root {root} is not a folder.",
            "Create it or leave it out.",
        )
    return Path(os.path.realpath(root))


def _refused(path: str) -> MegasamError:
    return MegasamError(
        "path_not_allowed",
        f"The server does not open {shown_path(path)}: it is not a plate below one of its media roots.",
        "Upload the plate, or ask who runs the server to share the folder (--media-root, or a"
        " mapped prefix).",
    )
