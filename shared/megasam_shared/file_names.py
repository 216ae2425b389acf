"""Names that came from another machine, made safe for a file on this one."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from megasam_shared.errors import MegasamError

# Not allowed on Windows, or with a meaning to a shell or a frame pattern.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*%#\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 200


def safe_name(name: str) -> str:
    """One file name without folders or characters that any of our systems refuses.

    Frame number and suffix survive: only single characters are replaced, and too long a name
    loses its beginning.

    Raises:
        MegasamError: ``name_unsafe`` when nothing of the name is left.
    """
    plain = _UNSAFE.sub("_", name.replace("\\", "/").rsplit("/", 1)[-1])
    plain = plain.rstrip(". ")
    while len(plain.encode()) > _LONGEST:
        plain = plain[1:]
    if not plain.strip("._ "):
        raise MegasamError("name_unsafe", f"{name[:80]!r} is not a name for a file.")
    return f"_{plain}" if _RESERVED.fullmatch(plain) or plain.startswith(".") else plain


def safe_path_below(folder: Path, relative: str) -> Path:
    """Where the file ``relative`` (with ``/``) may be written below ``folder``.

    Raises:
        MegasamError: ``name_unsafe`` for an absolute path, ``..`` or anything that
            :func:`safe_name` would have to change.
    """
    parts = PurePosixPath(relative).parts
    if not parts or "/".join(parts) != relative or any(safe_name(p) != p for p in parts):
        raise MegasamError("name_unsafe", f"{relative[:200]!r} is not a path for a result file.")
    return folder.joinpath(*parts)
