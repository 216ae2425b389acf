"""Paths as clients write them, on Windows or elsewhere, and where they lead on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from megasam_shared.errors import MegasamError

_DRIVE = re.compile(r"[A-Za-z]:")


class ClientPrefix:
    """The beginning of paths on a client: ``Z:/shows``, ``//server/share``, ``/Volumes/shows``.

    Raises:
        MegasamError: ``prefix_malformed``.
    """

    def __init__(self, text: str) -> None:
        self.is_windows = is_windows_path(text)
        self.parts = parts_of(text)
        if not is_absolute(text) or not self.parts or {"..", "."} & set(self.parts):
            raise MegasamError(
                "prefix_malformed",
                f"{text!r} is not the beginning of absolute paths.",
                "Write it like Z:/shows, //server/share or /Volumes/shows.",
            )

    def rest_of(self, path: str) -> list[str] | None:
        """The parts of ``path`` below this prefix; None when it is not below it."""
        if is_windows_path(path) != self.is_windows:
            return None
        parts = parts_of(path)
        head, rest = parts[: len(self.parts)], parts[len(self.parts) :]
        if self.is_windows:
            same = [p.casefold() for p in head] == [p.casefold() for p in self.parts]
        else:
            same = head == self.parts
        return rest if same else None


def is_windows_path(path: str) -> bool:
    """Whether a path begins with a drive letter or names a share."""
    return bool(_DRIVE.match(path)) or path[:2] in ("//", "\\\\")


def is_absolute(path: str) -> bool:
    """Whether a path says where it begins, on the system it comes from."""
    if is_windows_path(path):
        return path[:2] in ("//", "\\\\") or path[2:3] in ("/", "\\")
    return path.startswith("/")


def parts_of(path: str) -> list[str]:
    """The names in a path; both slashes separate those of Windows."""
    plain = path.replace("\\", "/") if is_windows_path(path) else path
    return [part for part in plain.split("/") if part not in ("", ".")]


def shown_path(path: str) -> str:
    """The path for a message: not too long, and without what would move a terminal's cursor."""
    return path[:200].encode("unicode_escape").decode()


def look_up(folder: Path, names: list[str], ignore_case: bool) -> Path:
    """The path below ``folder``; it need not exist.

    Args:
        ignore_case: take the only name that differs in case alone where there is none like the one
            asked for, as the client's system would. Names that Windows would read as something
            else (``plate.mov:stream``, ``plate.mov.``) lead to nothing.
    """
    path = folder
    for name in names:
        if ignore_case:
            name = _as_on_disk(path, name)
        path = path / name
    return path


def _as_on_disk(folder: Path, name: str) -> str:
    if ":" in name or name.endswith((".", " ")):
        return "\0"  # no file system has it
    if os.path.lexists(folder / name):
        return name
    try:
        alike = [other for other in os.listdir(folder) if other.casefold() == name.casefold()]
    except OSError:
        return name
    return alike[0] if len(alike) == 1 else name
