"""Whether the file of a checkpoint is there and is what it should be.

A published SHA-256 decides where there is one, and needs no torch; otherwise names and shapes of
the tensors do.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import CheckpointState
from megasam_shared.transfer import HashCache

from megasam_server.checkpoints.load import official_state
from megasam_server.checkpoints.locate import find_weights
from megasam_server.checkpoints.read import check_archive
from megasam_server.checkpoints.registry import Checkpoint, WeightFile


@dataclass(frozen=True)
class CheckpointStatus:
    """What is known of one checkpoint on this machine.

    Attributes:
        path: its file; None when it is missing.
        state: ``missing``; ``unchecked``: there, of the right size, and not looked into;
            ``verified``: it is the published file; ``fits``: no hash is published, its names and
            shapes are right; ``damaged``: it is not what it should be.
        reason: why it is damaged, or why nobody could look into it.
    """

    checkpoint: Checkpoint
    path: Path | None
    state: CheckpointState
    reason: str = ""

    @property
    def usable(self) -> bool:
        """There, and nothing speaks against it."""
        return self.state not in ("missing", "damaged")


def glance(checkpoint: Checkpoint, folder: Path, hashes: HashCache) -> CheckpointStatus:
    """The status without reading the file: its size, and its hash if it is remembered."""
    file, status = _by_size(checkpoint, folder)
    if status.state != "unchecked" or file.sha256 is None:
        return status
    known = hashes.known(status.path)
    return status if known is None else _by_hash(status, file, known.sha256)


def verify(checkpoint: Checkpoint, folder: Path, hashes: HashCache) -> CheckpointStatus:
    """The status after looking into the file; reads it only when its hash is not remembered.

    Call ``hashes.save()`` afterwards to remember what was read.
    """
    file, status = _by_size(checkpoint, folder)
    if status.state != "unchecked":
        return status
    try:
        if file.sha256 is not None:
            return _by_hash(status, file, hashes.content_of(status.path).sha256)
        official_state(checkpoint, status.path)
        if zipfile.is_zipfile(status.path):
            check_archive(status.path, contents=True)
    except MegasamError as error:
        state = "unchecked" if error.code == "missing_dependencies" else "damaged"
        return replace(status, state=state, reason=error.message)
    return replace(status, state="fits")


def is_published(file: WeightFile, path: Path, sha256: str) -> bool:
    """``path``, whose SHA-256 is given, is the file that was published."""
    if sha256 == file.sha256:
        return True
    # Two sources can differ by mistake; the name that git gave the file is the authors' own.
    return file.git_blob is not None and _git_blob(path) == file.git_blob


def _by_size(checkpoint: Checkpoint, folder: Path) -> tuple[WeightFile | None, CheckpointStatus]:
    """``missing``, ``damaged``, or ``unchecked`` with the file that is there."""
    found = find_weights(checkpoint, folder)
    if found is None:
        return None, CheckpointStatus(checkpoint, None, "missing")
    file, path = found
    wrong = _wrong_size(file, path)
    return file, CheckpointStatus(checkpoint, path, "damaged" if wrong else "unchecked", wrong)


def _by_hash(status: CheckpointStatus, file: WeightFile, sha256: str) -> CheckpointStatus:
    name = status.path.name
    if is_published(file, status.path, sha256):
        return replace(status, state="verified")
    reason = f"{name} is not the published file: its SHA-256 is {sha256}, not {file.sha256}."
    return replace(status, state="damaged", reason=reason)


def _wrong_size(file: WeightFile, path: Path) -> str:
    """What is wrong with the size; empty when it is right, or not known."""
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror or error}."
    if size == file.size or (file.size is None and size):
        return ""
    wanted = f"{file.size:,}" if file.size is not None else "some"
    return f"{path.name} has {size:,} bytes instead of {wanted}."


def _git_blob(path: Path) -> str:
    """The name git gives to the content of a file."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()
