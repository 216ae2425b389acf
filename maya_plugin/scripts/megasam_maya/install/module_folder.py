"""The folder of one installed version: what goes into it, writing it, and taking it away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from megasam_shared.errors import MegasamError

from megasam_maya.install import wheels
from megasam_maya.vendored import REQUIRED

MANIFEST = "manifest.json"
_FROM_PLUGIN = ("plug-ins", "scripts", "icons", "shelves")
_LEFT_OUT = {"__pycache__", ".DS_Store", "Thumbs.db"}
# Loaded libraries: Windows lets nobody delete them, which is how a folder shows that it is in use.
_LIBRARIES = (".pyd", ".dll", ".so", ".dylib")


@dataclass(frozen=True)
class NewFile:
    """A file to write: path relative to the folder, with forward slashes, and its content."""

    path: str
    content: bytes


def contents(checkout: Path, wheelhouse: Path, targets: list[wheels.Target]) -> list[NewFile]:
    """Every file of the module folder, the manifest last.

    Args:
        checkout: the folder with maya_plugin/ and shared/.
        wheelhouse: the folder with wheels of pyzmq and msgpack for all targets.

    Raises:
        MegasamError: ``no_source``, ``no_wheel`` or ``damaged_wheel``.
    """
    sources = [(checkout / "maya_plugin" / name, name) for name in _FROM_PLUGIN]
    sources.append((checkout / "shared" / "megasam_shared", "scripts/megasam_shared"))
    missing = [str(folder) for folder, _ in sources if not folder.is_dir()]
    if missing:
        raise MegasamError(
            "no_source",
            f"This copy of MegaSAM for Maya is not complete: {', '.join(missing)} is missing.",
            "Unpack the whole download and run install_maya.py from there.",
        )
    files = [
        NewFile(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        for folder, name in sources
        for path in _source_files(folder)
    ]
    if (checkout / "LICENSE").is_file():
        files.append(NewFile("LICENSE", (checkout / "LICENSE").read_bytes()))
    for target in targets:
        for distribution, _, floor in REQUIRED:
            wheel = wheels.pick(wheelhouse, distribution, floor, target)
            files += [
                NewFile(f"vendor/{target.folder_name}/{file.path}", file.content)
                for file in wheels.read(wheel)
            ]
    listed = sorted([file.path for file in files] + [MANIFEST])
    text = json.dumps({"files": listed}, indent=1, ensure_ascii=False) + "\n"
    return [*files, NewFile(MANIFEST, text.encode("utf-8"))]


def _source_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        junk = _LEFT_OUT.intersection(parts) or any(p.startswith(".") for p in parts)
        if path.is_file() and not junk and path.suffix != ".pyc" and not path.name.endswith("~"):
            yield path


def write(folder: Path, files: list[NewFile]) -> None:
    """Write all files below a folder that does not exist yet."""
    folder.mkdir(parents=True)
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)


def listed_files(folder: Path) -> list[str]:
    """The paths in a folder's manifest; empty if it has none that can be read.

    A path that leads out of the folder is not ours, whoever wrote it there.
    """
    try:
        paths = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [
        path
        for path in paths
        if isinstance(path, str)
        and not PurePosixPath(path).is_absolute()
        and not {"..", ""}.intersection(path.split("/"))
        and ":" not in path
        and "\\" not in path
    ]


def remove(folder: Path) -> list[Path]:
    """Delete what the manifest lists, with the bytecode made from it, and folders left empty.

    Libraries go first and the manifest last: when a library is in use nothing else is touched, and
    what was interrupted can be repeated.

    Returns:
        Files of other people that are still there; the folder then stays as well.

    Raises:
        MegasamError: ``in_use``.
    """
    paths = [folder / path for path in listed_files(folder) if path != MANIFEST]
    compiled = [
        cached
        for path in paths
        if path.suffix == ".py"
        for cached in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc")
    ]
    first = [path for path in paths if path.suffix in _LIBRARIES or ".so." in path.name]
    for path in dict.fromkeys([*first, *paths, *compiled, folder / MANIFEST]):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise MegasamError(
                "in_use",
                f"{path} cannot be deleted ({error.strerror or error}); Maya may be using it.",
                "Close Maya, and do the same again.",
            ) from error
    return _remove_empty(folder)


def _remove_empty(folder: Path) -> list[Path]:
    """Remove a folder as far as it is empty; the files that prevent it."""
    if not folder.is_dir():
        return []
    left = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            left += _remove_empty(path)
        else:
            left.append(path)
    if not left:
        folder.rmdir()
    return left
