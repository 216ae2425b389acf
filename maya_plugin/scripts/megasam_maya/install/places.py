"""Where Maya keeps an artist's modules, and where Maya itself is."""

from __future__ import annotations

import os
from pathlib import Path

from megasam_maya.maya_versions import MAYA_VERSIONS, MayaVersion, System

Environment = dict[str, str]


def maya_app_dir(system: System, environment: Environment, home: Path) -> Path:
    """Maya's folder of one artist: ``MAYA_APP_DIR``, else the system's default place.

    On Windows the Documents folder may be redirected to OneDrive; Maya follows it, and so do we
    when only the redirected one has a ``maya`` folder.
    """
    chosen = environment.get("MAYA_APP_DIR", "").strip()
    if chosen:
        # Maya takes the first of several.
        return Path(chosen.split(os.pathsep)[0]).expanduser()
    if system.name == "win64":
        documents = home / "Documents" / "maya"
        one_drive = environment.get("OneDrive", "")
        redirected = Path(one_drive) / "Documents" / "maya" if one_drive else None
        if redirected is not None and redirected.is_dir() and not documents.is_dir():
            return redirected
        return documents
    if system.name == "mac":
        return home / "Library" / "Preferences" / "Autodesk" / "maya"
    return home / "maya"


def mayapy(version: MayaVersion, system: System, environment: Environment) -> Path | None:
    """mayapy of one version: in ``MAYA_LOCATION`` if that is this version, else where Autodesk
    puts it; None when it is not there. Preference folders prove nothing: they outlive Maya."""
    location = environment.get("MAYA_LOCATION", "")
    name = "mayapy.exe" if system.name == "win64" else "mayapy"
    candidates = [Path(system.mayapy.format(maya=version.name))]
    if version.name in location:
        candidates.insert(0, Path(location) / "bin" / name)
    return next((path for path in candidates if path.is_file()), None)


def found_versions(system: System, environment: Environment) -> list[MayaVersion]:
    """The supported versions that are installed on this machine."""
    return [v for v in MAYA_VERSIONS if mayapy(v, system, environment) is not None]
