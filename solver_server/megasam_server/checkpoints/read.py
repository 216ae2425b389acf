"""Tensors out of a weight file, and nothing else: no code of the file is ever run.

Three formats: safetensors, the zip archive of ``torch.save``, and its older form without archive.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.install_command import install_command

# Keys under which training code puts the weights among other things.
CONTAINERS = ("state_dict", "model", "model_state_dict", "params")
PARALLEL_PREFIX = "module."
DOWNLOAD_AGAIN = "Download or copy the file again."
# Containers in containers occur (a trainer's file with a wrapped model); more is no checkpoint.
_MOST_NESTING = 4


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a weight file by the names their authors gave them.

    Containers such as ``{"state_dict": ...}`` are opened, and the ``module.`` that training on
    several GPUs puts before every name is taken off. Large files are mapped, not read.

    Returns:
        name -> torch.Tensor on the CPU.

    Raises:
        MegasamError: ``checkpoint_unreadable`` (missing, no permission), ``checkpoint_damaged``
            (cut off, no weight file at all), ``checkpoint_unsafe`` (holds more than weights),
            ``missing_dependencies`` (torch is not installed).
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise MegasamError(
            "checkpoint_unreadable",
            f"{path} cannot be read: {error.strerror or error}.",
            "Check that it exists, its permissions and the disk.",
        ) from None
    _refuse_substitutes(path, head)
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif zipfile.is_zipfile(path):
        check_archive(path)
        content = _read_torch(path, mmap=True)
    else:
        content = _read_torch(path, mmap=False)
    return _named_tensors(path, content)


def check_archive(path: Path, contents: bool = False) -> None:
    """Refuse an archive that would unpack to more than it is, and one that is cut off.

    torch stores tensors uncompressed, so all entries together are never larger than the file.

    Args:
        contents: read everything and compare with the check sums of the archive, too.

    Raises:
        MegasamError: ``checkpoint_damaged`` or ``checkpoint_unsafe``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if compressed or unpacked > path.stat().st_size:
                raise MegasamError(
                    "checkpoint_unsafe",
                    f"{path} is an archive that would unpack to {unpacked:,} bytes: no checkpoint"
                    " is packed like that.",
                    "Take the checkpoint from its authors' page.",
                )
            wrong = archive.testzip() if contents else None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, f"its archive cannot be opened ({error})") from None
    if wrong is not None:
        raise _damaged(path, f"its part {wrong} has changed since it was written")


def _refuse_substitutes(path: Path, head: bytes) -> None:
    """What a download that went wrong leaves behind under the right name."""
    if not head:
        raise _damaged(path, "it is empty")
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise _damaged(path, "it is a web page, not the file that the page offers")
    if start.startswith(b"version https://git-lfs"):
        raise _damaged(path, "it is a Git LFS pointer, not the file it points to")


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise needs_packages(error) from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, f"it is no whole safetensors file ({error})") from None


def _read_torch(path: Path, mmap: bool) -> Any:
    try:
        import torch
    except ImportError as error:
        raise needs_packages(error) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise _damaged(path, "it is not what torch.save writes") from None
        raise MegasamError(
            "checkpoint_unsafe",
            f"{path} holds more than weights ({foreign[1]}): Python code that would run when it"
            " is opened. It was not run.",
            "Take the checkpoint from its authors' page, or have it saved again as a state dict.",
        ) from None
    except Exception as error:  # damaged bytes can make the reader fail in any manner
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _damaged(path, f"torch cannot read it ({lines[0][:200]})") from None


def _named_tensors(path: Path, content: Any) -> dict[str, Any]:
    import torch

    for _ in range(_MOST_NESTING):
        inner = [content.get(name) for name in CONTAINERS] if isinstance(content, Mapping) else []
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    if not isinstance(content, Mapping):
        raise _damaged(path, f"it holds a {type(content).__name__}, not named tensors")
    strange = [
        name
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
        or value.layout != torch.strided
        or value.is_meta
        or value.is_quantized
    ]
    if strange or not content:
        what = f"its entry {strange[0]!r} is no plain tensor" if strange else "it holds no tensor"
        raise _damaged(path, what)
    prefix = PARALLEL_PREFIX if all(n.startswith(PARALLEL_PREFIX) for n in content) else ""
    return {name.removeprefix(prefix): value.detach() for name, value in content.items()}


def _damaged(path: Path, why: str) -> MegasamError:
    return MegasamError("checkpoint_damaged", f"{path} is damaged: {why}.", DOWNLOAD_AGAIN)


def needs_packages(error: ImportError) -> MegasamError:
    """The error for a machine without the packages of the networks."""
    return MegasamError(
        "missing_dependencies",
        f"Weights can only be looked into with the networks' packages: {error}.",
        f"Install them: {install_command('networks')}",
    )
