"""Does it load? Asked of the Python it is for, before Maya gets to see it."""

from __future__ import annotations

import sys
from pathlib import Path

from megasam_shared.errors import MegasamError

from megasam_maya.install.places import mayapy
from megasam_maya.install.python_process import run_python
from megasam_maya.maya_versions import MayaVersion, System, this_system

# Without site-packages, so that no other copy hides a fault of ours.
_PROGRAM = """
import sys
sys.path.append(sys.argv[1])
import megasam_maya, megasam_shared
from megasam_maya import vendored
for package in vendored.load():
    assert package.ours, f"{package.name} comes from {package.file}"
"""


def interpreter(maya: MayaVersion, system: System, environment: dict[str, str]) -> Path | None:
    """mayapy of that version, or this Python if it is the same version; None if there is none."""
    if system != this_system():
        return None
    found = mayapy(maya, system, environment)
    if found is None and sys.version_info[:2] == maya.python:
        return Path(sys.executable)
    return found


def try_out(module_root: Path, python: Path) -> None:
    """Import everything from a module folder in a fresh process.

    Raises:
        MegasamError: ``does_not_load``.
    """
    arguments = ["-s", "-S", "-B", "-c", _PROGRAM, str(module_root / "scripts")]
    outcome = run_python(python, arguments, timeout=120)
    if not outcome.succeeded:
        raise MegasamError(
            "does_not_load",
            f"It does not load in {python}: {outcome.said.splitlines()[-1]}",
            "Nothing was changed. Please report this with the line above.",
        )
