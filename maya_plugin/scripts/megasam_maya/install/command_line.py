"""``install_maya.py`` as a command: options, defaults and what is printed."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from megasam_shared import __version__
from megasam_shared.errors import MegasamError

from megasam_maya.install import installation, mod_file, module_folder, places, wheels
from megasam_maya.install.try_out import interpreter, try_out
from megasam_maya.maya_versions import (
    MAYA_VERSIONS,
    SYSTEMS,
    MayaVersion,
    System,
    names,
    system_named,
    this_system,
    version_named,
)


def main(arguments: list[str], checkout: Path | None) -> int:
    """Run the command; returns the exit code: 0 done, 2 an error.

    Args:
        checkout: the folder with maya_plugin/, shared/ and mod/; None when run from an installed
            copy, which can uninstall only.
    """
    options = _parser().parse_args(arguments)
    try:
        outcome = _uninstall(options) if options.uninstall else _install(options, checkout)
    except MegasamError as error:
        if options.json:
            print(json.dumps({"error": error.to_map()}))
        else:
            print(f"{error.message}\n{error.hint}".strip(), file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(outcome))
    else:
        print("\n".join([*outcome["files"], *outcome["messages"]]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="install_maya.py", description="Install MegaSAM for Maya as a Maya module."
    )
    parser.add_argument(
        "--maya",
        action="append",
        metavar="VERSION",
        help=f"one of {names(MAYA_VERSIONS)}; may be repeated. Default: every one found here",
    )
    parser.add_argument(
        "--wheelhouse",
        type=Path,
        metavar="DIR",
        help="folder with wheels of pyzmq and msgpack, instead of downloading them. Default: "
        "the folder wheelhouse beside install_maya.py, if there is one",
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing, list every file")
    parser.add_argument("--uninstall", action="store_true", help="remove what was installed")
    parser.add_argument(
        "--modules",
        type=Path,
        metavar="DIR",
        help="install in this folder, one of MAYA_MODULE_PATH. Default: modules in MAYA_APP_DIR",
    )
    parser.add_argument(
        "--platform",
        action="append",
        choices=[s.name for s in SYSTEMS],
        help="prepare for another system, with --modules; may be repeated. Default: this one",
    )
    parser.add_argument("--json", action="store_true", help="the outcome as JSON, for scripts")
    return parser


def _install(options: argparse.Namespace, checkout: Path | None) -> dict:
    if checkout is None:
        raise MegasamError(
            "no_source",
            "This is an installed copy, which can only be uninstalled.",
            "To install, run install_maya.py from the download.",
        )
    systems = _systems(options)
    versions = _versions(options, systems)
    modules = _modules(options)
    targets = wheels.targets_for(versions, systems)
    with _wheelhouse(options, checkout, targets) as wheelhouse:
        files = module_folder.contents(checkout, wheelhouse, targets)
    folder = installation.free_folder_name(modules, __version__)
    template = (checkout / "mod" / "MegaSAM.mod.in").read_text(encoding="utf-8")
    path = f"./{installation.FOLDER}/{folder}"
    entries = [
        installation.Entry(
            maya.name,
            system.name,
            folder,
            mod_file.render_entry(template, maya, system, __version__, path),
        )
        for maya in versions
        for system in systems
        if system.name in maya.systems
    ]
    plan = installation.plan(modules, folder, files, entries)
    pythons = {
        maya.name: python
        for maya in versions
        for system in systems
        if (python := interpreter(maya, system, dict(os.environ))) is not None
    }
    listed = [str(p) for p in plan.paths] if options.dry_run else []
    messages = []
    if options.dry_run:
        messages.append(f"Dry run: these {len(listed)} files would be written; nothing was.")
    else:

        def check(root: Path) -> None:
            for python in dict.fromkeys(pythons.values()):
                try_out(root, python)

        installation.install(plan, check)
        messages.append(f"MegaSAM {__version__} is installed in {plan.module_root}.")
        messages.append(f"For Maya {names(tuple(versions))}: start Maya; the shelf is MegaSAM.")
        messages += [
            f"Not tried out for Maya {v.name}: its mayapy is not on this machine."
            for v in versions
            if v.name not in pythons
        ]
    return {
        "files": listed,
        "messages": messages,
        "module_root": str(plan.module_root),
        "mod": str(modules / mod_file.FILE_NAME),
    }


def _uninstall(options: argparse.Namespace) -> dict:
    modules = _modules(options)
    mayas = [_version(name).name for name in options.maya] if options.maya else None
    files = [str(path) for path in installation.installed_files(modules, mayas)]
    if not files:
        return {"files": [], "messages": [f"There is nothing to uninstall in {modules}."]}
    if options.dry_run:
        messages = [f"Dry run: these {len(files)} files would be deleted; nothing was."]
        return {"files": files, "messages": messages}
    left = installation.uninstall(modules, mayas)
    messages = [f"MegaSAM is uninstalled from {modules}."]
    messages += [f"Left, because the installer did not write it: {path}" for path in left]
    return {"files": [], "messages": messages}


def _system() -> System:
    system = this_system()
    if system is None:
        raise MegasamError(
            "no_maya",
            f"There is no Maya for {sys.platform}.",
            f"Name a system with --platform ({names(SYSTEMS)}) and a folder with --modules.",
        )
    return system


def _systems(options: argparse.Namespace) -> list[System]:
    if not options.platform:
        return [_system()]
    if options.modules is None:
        raise MegasamError(
            "no_modules_folder",
            "--platform prepares a folder for other machines, but --modules names none.",
            "Add --modules DIR, a folder that those machines have in MAYA_MODULE_PATH.",
        )
    return [s for name in dict.fromkeys(options.platform) if (s := system_named(name)) is not None]


def _version(name: str) -> MayaVersion:
    version = version_named(name)
    if version is None:
        raise MegasamError(
            "unsupported_maya",
            f"Maya {name} is not supported: it needs Python 3.11 or newer and PySide6.",
            f"Supported are {names(MAYA_VERSIONS)}.",
        )
    return version


def _versions(options: argparse.Namespace, systems: list[System]) -> list[MayaVersion]:
    if options.maya:
        return list(dict.fromkeys(_version(name) for name in options.maya))
    if options.platform:
        return list(MAYA_VERSIONS)
    found = places.found_versions(systems[0], dict(os.environ))
    if not found:
        raise MegasamError(
            "no_maya",
            f"No supported Maya ({names(MAYA_VERSIONS)}) was found on this machine.",
            "If it is in a folder of its own, name the version: --maya 2026.",
        )
    return found


def _modules(options: argparse.Namespace) -> Path:
    if options.modules is not None:
        return options.modules.expanduser().absolute()
    home = places.maya_app_dir(_system(), dict(os.environ), Path.home())
    return home.absolute() / "modules"


@contextlib.contextmanager
def _wheelhouse(
    options: argparse.Namespace, checkout: Path, targets: list[wheels.Target]
) -> Iterator[Path]:
    """The folder with wheels: given, beside the installer, or filled for the time being."""
    beside = checkout / "wheelhouse"
    given = options.wheelhouse or (beside if beside.is_dir() else None)
    if given is not None:
        if not given.is_dir():
            raise MegasamError(
                "no_wheelhouse", f"The wheelhouse {given} is not a folder.", "Check the path."
            )
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="megasam-wheels-") as folder:
        lock = checkout / "mod" / "vendor_lock.txt"
        wheels.download(lock, targets, Path(folder), _python_with_pip())
        yield Path(folder)


def _python_with_pip() -> Path:
    """This Python, or if it lacks pip a mayapy: pip chooses wheels for any version."""
    if importlib.util.find_spec("pip") is not None:
        return Path(sys.executable)
    system, environment = _system(), dict(os.environ)
    for version in places.found_versions(system, environment):
        found = places.mayapy(version, system, environment)
        if found is not None:
            return found
    raise MegasamError(
        "no_pip",
        "pyzmq and msgpack have to be downloaded, and this Python has no pip.",
        "Run the installer with mayapy or another Python, or pass --wheelhouse DIR.",
    )
