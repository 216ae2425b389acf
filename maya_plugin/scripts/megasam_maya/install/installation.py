"""Installing, upgrading and uninstalling in one modules folder of Maya.

    modules/MegaSAM.mod               the only file that Maya reads here
    modules/MegaSAM/installed.json    which Maya version uses which folder
    modules/MegaSAM/0.1.0/            one installed version; never changed once it is there

A new version gets a folder of its own, and replacing MegaSAM.mod is the moment at which Maya's
next start uses it. The folder it used before stays for the Maya that is still running; the install
after that, or uninstalling, takes it away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from megasam_shared.errors import MegasamError

from megasam_maya.install import mod_file, module_folder
from megasam_maya.install.module_folder import NewFile

FOLDER = "MegaSAM"
_STATE = "installed.json"
_STAGING = ".staging-"
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Entry:
    """One entry of the .mod file: which Maya on which system uses which folder; ``text`` as it
    stands in the file."""

    maya: str
    system: str
    folder: str
    text: str


@dataclass(frozen=True)
class State:
    """What installed.json holds.

    ``superseded``: folders that no entry names any more. ``made_parents``: how many folders above
    modules/MegaSAM did not exist before the first install, to be removed with it.
    """

    entries: list[Entry] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)
    made_parents: int = 0


@dataclass(frozen=True)
class Plan:
    """An install, worked out without having written anything."""

    modules: Path
    folder: str
    files: list[NewFile]
    state: State

    @property
    def module_root(self) -> Path:
        return self.modules / FOLDER / self.folder

    @property
    def paths(self) -> list[Path]:
        """Every file the install writes."""
        return [
            *(self.module_root / file.path for file in self.files),
            self.modules / FOLDER / _STATE,
            self.modules / mod_file.FILE_NAME,
        ]


def free_folder_name(modules: Path, version: str) -> str:
    """The version, with a number behind it when that folder is taken."""
    names = [version, *(f"{version}-{n}" for n in range(2, 1000))]
    return next(name for name in names if not (modules / FOLDER / name).exists())


def plan(modules: Path, folder: str, files: list[NewFile], entries: list[Entry]) -> Plan:
    """What installing ``files`` for ``entries`` means for a modules folder as it is now.

    Raises:
        MegasamError: ``foreign_mod``, ``not_writable`` or ``disk_full``.
    """
    before = read_state(modules)
    if before is None and (modules / mod_file.FILE_NAME).exists():
        raise MegasamError(
            "foreign_mod",
            f"{modules / mod_file.FILE_NAME} was not written by this installer.",
            "Move it out of that folder and install again.",
        )
    old = before or State(made_parents=len(_missing_folders(modules)))
    new = {(e.maya, e.system) for e in entries}
    kept = [e for e in old.entries if (e.maya, e.system) not in new]
    in_use = {e.folder for e in [*kept, *entries]}
    unused = [e.folder for e in old.entries if e.folder not in in_use]
    superseded = [n for n in dict.fromkeys([*old.superseded, *unused]) if n not in in_use]
    state = replace(old, entries=[*kept, *entries], superseded=superseded)
    _check_room(modules, sum(len(file.content) for file in files))
    return Plan(modules, folder, files, state)


def install(planned: Plan, try_out: Callable[[Path], None]) -> None:
    """Carry out a plan: all of it, or nothing.

    Args:
        try_out: is given the complete folder before Maya can see it; what it raises ends the
            install.

    Raises:
        MegasamError: from ``try_out``; ``disk_full``, ``not_writable`` or ``write_failed``.
    """
    home = planned.modules / FOLDER
    staging = home / f"{_STAGING}{secrets.token_hex(4)}"
    before = read_state(planned.modules)
    made = _missing_folders(home)
    switched = False
    try:
        with _errors_in_words(planned.modules):
            module_folder.write(staging, planned.files)
            try_out(staging)
            _patiently(lambda: os.rename(staging, planned.module_root))
            _write_state(planned.modules, planned.state)
            _write_mod(planned.modules, planned.state)
            switched = True
    finally:
        if not switched:
            shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(planned.module_root, ignore_errors=True)
            with contextlib.suppress(OSError):
                if before is None:
                    (home / _STATE).unlink()
                else:
                    _write_state(planned.modules, before)
            _remove_if_empty(made)
    if before is not None and before.superseded:
        out_of_use = [name for name in before.superseded if name in planned.state.superseded]
        _forget_superseded(planned.modules, planned.state, out_of_use)


def uninstall(modules: Path, mayas: list[str] | None) -> list[Path]:
    """Take the module away from some Maya versions, or with None from all.

    Returns:
        Files of other people in our folders; they and their folders are left.

    Raises:
        MegasamError: ``in_use`` (the .mod file is gone by then, and the same call later finishes
            the work), ``not_writable``.
    """
    state = read_state(modules) or State()
    kept = [e for e in state.entries if mayas is not None and e.maya not in mayas]
    used = {e.folder for e in kept}
    unused = [path.name for path in _version_folders(modules) if path.name not in used]
    after = replace(state, entries=kept, superseded=unused)
    if not (modules / FOLDER).is_dir():
        return []
    with _errors_in_words(modules):
        _write_state(modules, after)
        _write_mod(modules, after)
        left = [path for name in unused for path in module_folder.remove(modules / FOLDER / name)]
        for staging in (modules / FOLDER).glob(_STAGING + "*"):
            shutil.rmtree(staging)
        _write_state(modules, replace(after, superseded=[]))
        if not kept:
            (modules / FOLDER / _STATE).unlink()
            parents = [modules / FOLDER, modules, *modules.parents]
            _remove_if_empty(parents[: 1 + state.made_parents])
    return left


def installed_files(modules: Path, mayas: list[str] | None) -> list[Path]:
    """What ``uninstall`` would delete, apart from bytecode."""
    state = read_state(modules) or State()
    used = {e.folder for e in state.entries if mayas is not None and e.maya not in mayas}
    paths = [
        folder / listed
        for folder in _version_folders(modules)
        if folder.name not in used
        for listed in module_folder.listed_files(folder)
    ]
    if not used:
        paths += [modules / FOLDER / _STATE, modules / mod_file.FILE_NAME]
        # An install that was killed.
        paths += (modules / FOLDER).glob(f"{_STAGING}*/**/*")
    return [path for path in paths if path.is_file()]


def read_state(modules: Path) -> State | None:
    """What installed.json says, or None if there is none.

    Raises:
        MegasamError: ``damaged_state``.
    """
    path = modules / FOLDER / _STATE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _in_words(modules, error) from error
    try:
        data = json.loads(text)
        return State(
            [Entry(**entry) for entry in data["entries"]],
            [str(name) for name in data["superseded"]],
            int(data["made_parents"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MegasamError(
            "damaged_state",
            f"{path} cannot be read: {error}.",
            f"Delete {path.parent} and {modules / mod_file.FILE_NAME}, and install again.",
        ) from error


def _version_folders(modules: Path) -> list[Path]:
    """Folders that an install made, also one that was cut short before anything named it."""
    return sorted(
        path.parent for path in (modules / FOLDER).glob(f"[!.]*/{module_folder.MANIFEST}")
    )


def _forget_superseded(modules: Path, state: State, folders: list[str]) -> None:
    """Delete folders that were out of use before this install; one in use waits for the next."""
    gone = []
    for name in folders:
        with contextlib.suppress(MegasamError):
            module_folder.remove(modules / FOLDER / name)
            gone.append(name)
    with contextlib.suppress(OSError):
        _write_state(
            modules, replace(state, superseded=[n for n in state.superseded if n not in gone])
        )


def _write_state(modules: Path, state: State) -> None:
    text = json.dumps(asdict(state), indent=1, ensure_ascii=False) + "\n"
    _replace_file(modules / FOLDER / _STATE, modules, text)


def _write_mod(modules: Path, state: State) -> None:
    """Write the .mod file; with no entries there is none."""
    path = modules / mod_file.FILE_NAME
    if state.entries:
        _replace_file(path, modules, mod_file.render_file([e.text for e in state.entries]))
    elif path.exists():
        path.unlink()


def _replace_file(path: Path, modules: Path, text: str) -> None:
    """Replace a file in one step. Maya reads every file in modules/, so the new one is written
    in the folder below."""
    new = modules / FOLDER / f"{_STAGING}{secrets.token_hex(4)}.txt"
    try:
        new.write_bytes(text.encode("utf-8"))
        _patiently(lambda: os.replace(new, path))
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _patiently(rename: Callable[[], None]) -> None:
    """On Windows, a virus scanner that looks at new files keeps them from being renamed."""
    for _ in range(20 if os.name == "nt" else 0):
        try:
            return rename()
        except PermissionError:
            time.sleep(0.1)
    rename()


def _missing_folders(folder: Path) -> list[Path]:
    """The folder and its parents that do not exist, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_if_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _check_room(modules: Path, size: int) -> None:
    existing = next((p for p in (modules, *modules.parents) if p.exists()), Path(modules.anchor))
    if not existing.is_dir():
        raise _in_words(modules, NotADirectoryError(errno.ENOTDIR, f"{existing} is a file"))
    if not os.access(existing, os.W_OK):
        raise _in_words(modules, PermissionError(errno.EACCES, "no permission"))
    # Small files take a whole block each.
    needed = size + 8 * 1024 * 1024
    usage = shutil.disk_usage(existing)
    # Some network shares report a size of 0: they do not say.
    if usage.total and usage.free < needed:
        raise _in_words(modules, OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed"))


@contextlib.contextmanager
def _errors_in_words(modules: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _in_words(modules, error) from error


def _in_words(modules: Path, error: OSError) -> MegasamError:
    why = error.strerror or str(error)
    if error.errno in _DISK_FULL:
        return MegasamError(
            "disk_full",
            f"There is no room in {modules}: {why}.",
            "Free some space; nothing was changed.",
        )
    if error.errno in _FORBIDDEN:
        return MegasamError(
            "not_writable",
            f"Nothing can be written to {modules}: {why}.",
            "Get permission, or choose another folder with --modules or MAYA_APP_DIR.",
        )
    return MegasamError(
        "write_failed", f"Installing in {modules} failed: {why}.", "Nothing was changed."
    )
