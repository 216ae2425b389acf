"""Outputs of stages that another attempt at a job, or another job, may use again.

An entry is named for its stage and for the hash of everything that its content depends on: the
files of the plate, the settings that the stage reads, the outputs it builds on, and the source
code. So a solve that died in the flow goes on there, and a plate that is solved again with other
depth settings is not tracked again. It is a cache: losing an entry costs time, never a result.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megasam_shared import __version__
from megasam_shared.sequence import find_sequence, is_movie

import megasam_server

_log = logging.getLogger(__name__)

# The stages whose outputs are kept: a solve that is stopped after one of them loses nothing.
KEPT_STAGES = frozenset(
    {"plate", "masks", "mono_depth", "metric_depth", "tracking", "refined", "network_flow"}
)

KEPT = "kept from an earlier solve"
"""What the artist reads at a stage that did not have to run."""

_MARK = "complete.json"
_UNFINISHED = ".unfinished-"


class StageCache:
    """A folder of entries. Several processes may use it at once.

    Files enter and leave as hard links where the disk can do that: they take no room twice, and an
    entry may be removed at any time, whoever uses its files.

    Args:
        folder: made when something is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def reuse(self, stage: str, key: str, folder: Path) -> bool:
        """Put the files of an entry into ``folder``; False when there is no such entry."""
        if self._folder is None:
            return False
        entry = self._entry(stage, key)
        placed: list[Path] = []
        try:
            sizes: dict[str, int] = json.loads((entry / _MARK).read_bytes())
            for name, size in sizes.items():
                if (entry / name).stat().st_size != size:
                    raise ValueError(f"{name} has not its {size} bytes")
                placed.append(folder / name)
                _link(entry / name, folder / name)
            # The time of the last use, for those who remove what nobody uses.
            os.utime(entry / _MARK)
        except (OSError, ValueError, AttributeError) as error:
            for path in placed:
                path.unlink(missing_ok=True)
            if not isinstance(error, FileNotFoundError):
                _log.warning("the stage output %s is not used: %s", entry, error)
                shutil.rmtree(entry, ignore_errors=True)
            return False
        return True

    def keep(self, stage: str, key: str, files: Sequence[Path]) -> None:
        """Keep finished files, which nobody may write into any more. The entry is there whole or
        not at all; where it cannot be written, nothing is kept."""
        assert stage in KEPT_STAGES, f"{stage} is not among the stages that are kept"
        if self._folder is None:
            return
        entry = self._entry(stage, key)
        unfinished = self._folder / f"{_UNFINISHED}{stage}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            unfinished.mkdir(parents=True)
            for file in files:
                _link(file, unfinished / file.name)
                if os.name == "posix":  # elsewhere a read-only file cannot be deleted either
                    (unfinished / file.name).chmod(0o444)
            sizes = {file.name: file.stat().st_size for file in files}
            (unfinished / _MARK).write_text(json.dumps(sizes))
            unfinished.rename(entry)
        except OSError as error:
            # Another worker that solves the same is a reason, too: then the entry is there.
            if not entry.exists():
                _log.warning("the output of %s is not kept for other solves: %s", stage, error)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _entry(self, stage: str, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{stage}-{key}"


def key_of(stage: str, **depends_on: Any) -> str:
    """The key of a stage's output.

    Args:
        depends_on: everything but the source code that makes a difference, as JSON types.
    """
    parts = [stage, __version__, _source_digest(), depends_on]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def identity_of(media: Path) -> list[list[Any]]:
    """What tells the files of a plate or mask from any others, without reading them: of each its
    name, number on its disk, size and time of change. The links that jobs have to one upload are
    the same file. The disk itself has another number on every machine that mounts it."""
    files = [media] if is_movie(media) else find_sequence(media).files
    stats = [(Path(file).name, os.stat(file)) for file in files]
    return [[name, s.st_ino, s.st_size, s.st_mtime_ns] for name, s in stats]


def entries(folder: Path) -> Iterator[tuple[Path, int, int, float]]:
    """The entries of a cache folder: path, bytes, bytes that removing it would free (others may
    hold links), and seconds since the epoch of the last use; unfinished ones with their age."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            stats = [path.stat() for path in entry.iterdir()]
            size = sum(stat.st_size for stat in stats)
            freed = sum(stat.st_size for stat in stats if stat.st_nlink == 1)
            mark = entry / _MARK
            used = (mark if mark.exists() else entry).stat().st_mtime
            yield entry, size, freed, used


def is_unfinished(entry: Path) -> bool:
    """It is being written, or was when its worker died."""
    return entry.name.startswith(_UNFINISHED)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@functools.cache
def _source_digest() -> str:
    """Hash of this package's source: whoever changes a stage need not think of the cache."""
    digest = hashlib.sha256()
    package = Path(megasam_server.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
