"""Taking a downloaded file into the folder of checkpoints, under its right name."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from megasam_shared.errors import MegasamError

from megasam_server.checkpoints.load import identify
from megasam_server.checkpoints.registry import Checkpoint, WeightFile, weight_files
from megasam_server.checkpoints.verify import is_published

_BLOCK = 4 << 20


@dataclass(frozen=True)
class Recognised:
    """Which checkpoint a file is, and how that was found out.

    Attributes:
        sha256: of the file.
        by_hash: it is the published file; otherwise its names and shapes fit, and no hash of the
            checkpoint is published.
    """

    checkpoint: Checkpoint
    file: WeightFile
    sha256: str
    by_hash: bool


def recognise(path: Path) -> Recognised:
    """Find out which checkpoint a file is, whatever it is called.

    Raises:
        MegasamError: ``checkpoint_unknown``, or what
            :func:`~megasam_server.checkpoints.read.read_weights` raises.
    """
    sha256 = _sha256(path)
    size = path.stat().st_size
    for checkpoint, file in weight_files():
        if file.size in (None, size) and is_published(file, path, sha256):
            return Recognised(checkpoint, file, sha256, by_hash=True)
    fitting = identify(path)
    for checkpoint in fitting:
        for file in checkpoint.files:
            no_hash = file.sha256 is None and file.git_blob is None
            if no_hash and file.size in (None, size) and _is_same_format(file.name, path.name):
                return Recognised(checkpoint, file, sha256, by_hash=False)
    if fitting:
        titles = " and ".join(checkpoint.title for checkpoint in fitting)
        raise MegasamError(
            "checkpoint_unknown",
            f"{path} has the shapes of {titles}, but it is not the published file (SHA-256"
            f" {sha256}): nobody knows where it comes from and under which licence.",
            f"Take the file from {fitting[0].files[0].source}",
        )
    raise MegasamError(
        "checkpoint_unknown",
        f"{path} is none of the known checkpoints (SHA-256 {sha256}).",
        "`megasam checkpoints list` shows them and where to get them.",
    )


def import_file(path: Path, recognised: Recognised, folder: Path) -> Path:
    """Copy a recognised file into ``folder``; the file there is always whole.

    Returns:
        Where it lies now.

    Raises:
        MegasamError: ``checkpoint_not_written`` (disk full, no permission),
            ``checkpoint_damaged`` when it changed while it was copied.
    """
    target = folder / recognised.file.name
    temporary = folder / f".{recognised.file.name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and target.samefile(path):
            return target
        try:
            copied = _copy(path, temporary)
            if copied != recognised.sha256:
                raise MegasamError(
                    "checkpoint_damaged",
                    f"{path} changed while it was copied.",
                    "Import it when the download is finished.",
                )
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise MegasamError(
            "checkpoint_not_written",
            f"{target} cannot be written: {error.strerror or error}.",
            "Free space there, or choose another folder of checkpoints.",
        ) from None
    return target


def _is_same_format(name: str, other: str) -> bool:
    """What torch.save wrote goes by many names, safetensors by one."""
    return name.endswith(".safetensors") == other.endswith(".safetensors")


def _copy(source: Path, target: Path) -> str:
    """Copy a file to the disk, not only to the system's buffers; its SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    shutil.copystat(source, target)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MegasamError(
            "checkpoint_unreadable",
            f"{path} cannot be read: {error.strerror or error}.",
            "Check the path and the permissions.",
        ) from None
