"""The table of supported Maya versions and systems. Everything that depends on them asks here.

Standard library only and Python 3.9 or newer: the installer reads it too.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """An operating system as Maya and wheels name it.

    Attributes:
        name: the word after ``PLATFORM:`` in a .mod file.
        sys_platform: Python's ``sys.platform`` there.
        architectures: Python's ``platform.machine()`` in lower case, one or more; a .mod file
            cannot tell them apart.
        mayapy: where Autodesk's installer puts mayapy; ``{maya}`` stands for the version.
    """

    name: str
    sys_platform: str
    architectures: tuple[str, ...]
    mayapy: str


@dataclass(frozen=True)
class MayaVersion:
    """One yearly version: its name, Python (major, minor), PySide6, and the systems it is for."""

    name: str
    python: tuple[int, int]
    pyside: str
    systems: tuple[str, ...] = ("win64", "linux", "mac")

    @property
    def python_tag(self) -> str:
        """The tag of its Python in the names of wheels: ``cp311``."""
        return "cp{}{}".format(*self.python)


SYSTEMS = (
    System(
        "win64",
        "win32",
        ("amd64",),
        "C:/Program Files/Autodesk/Maya{maya}/bin/mayapy.exe",
    ),
    System("linux", "linux", ("x86_64",), "/usr/autodesk/maya{maya}/bin/mayapy"),
    System(
        "mac",
        "darwin",
        ("arm64", "x86_64"),
        "/Applications/Autodesk/maya{maya}/Maya.app/Contents/bin/mayapy",
    ),
)

MAYA_VERSIONS = (
    MayaVersion("2025", (3, 11), "6.5.3"),
    MayaVersion("2026", (3, 11), "6.5.3"),
    MayaVersion("2027", (3, 13), "6.8.3"),
)


def version_named(name: str) -> MayaVersion | None:
    """The row of a version, or None; updates such as ``2026.3`` belong to their base version."""
    base = name.split(".")[0].strip()
    return next((v for v in MAYA_VERSIONS if v.name == base), None)


def system_named(name: str) -> System | None:
    return next((s for s in SYSTEMS if s.name == name), None)


def this_system() -> System | None:
    """The system this Python runs on, or None when Maya does not run there."""
    return next((s for s in SYSTEMS if s.sys_platform == sys.platform), None)


def vendor_tag(python_tag: str, system: System, architecture: str) -> str:
    """Name of the folder with the compiled packages: ``cp311-win64-amd64``."""
    return f"{python_tag}-{system.name}-{architecture}"


def running_vendor_tag() -> str | None:
    """The vendor folder for the Python that runs now, or None where Maya does not exist."""
    system = this_system()
    architecture = platform.machine().lower()
    if system is None or architecture not in system.architectures:
        return None
    return vendor_tag("cp{}{}".format(*sys.version_info[:2]), system, architecture)


def names(rows: tuple[MayaVersion, ...] | tuple[System, ...]) -> str:
    """The rows' names for a message: ``2025, 2026, 2027``."""
    return ", ".join(row.name for row in rows)
