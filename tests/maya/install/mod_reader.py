"""Reads .mod files as Maya does: written from Autodesk's page on module description files, not from
our writer. Strict where Maya is quiet: what Maya would skip without a word is an error here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_CONDITIONS = {
    "MAYAVERSION": r"\d{4}",
    "PLATFORM": "win64|mac|linux",
    "LOCALE": "en_US|ja_JP|zh_CN",
}
_DIRECTORIES = ("plug-ins", "scripts", "icons", "presets", "resources")


@dataclass
class Module:
    """An entry: its conditions, name, version, root folder, and the lines that follow it."""

    conditions: dict[str, str]
    name: str
    version: str
    root: Path
    environment: list[tuple[str, str, str]] = field(default_factory=list)


def read(path: Path) -> list[Module]:
    """All entries of a file."""
    data = path.read_bytes()
    assert b"\r" not in data and b"\\" not in data, "line ends and slashes as Maya writes them"
    modules: list[Module] = []
    open_entry = False
    for line in data.decode("ascii").split("\n")[:-1]:
        if line.startswith("+"):
            modules.append(_entry(line, path.parent))
            open_entry = True
        elif not line.strip() or line.lstrip().startswith("#"):
            open_entry = False
        else:
            assert open_entry, f"Maya ignores this line: {line!r}"
            modules[-1].environment.append(_environment(line))
    return modules


def _entry(line: str, folder: Path) -> Module:
    assert line.startswith("+ ") and line[2] != " ", "one space after the plus"
    words = line[2:].split(" ")
    conditions = {}
    while ":" in words[0]:
        name, value = words.pop(0).split(":")
        assert re.fullmatch(_CONDITIONS[name], value), line
        conditions[name] = value
    assert len(words) == 3, f"name, version, path without spaces: {line!r}"
    name, version, root = words
    return Module(conditions, name, version, (folder / root).resolve())


def _environment(line: str) -> tuple[str, str, str]:
    directory = re.fullmatch(rf"(\[r\] )?({'|'.join(_DIRECTORIES)}): (\S.*)", line)
    if directory:
        return directory[2], "dir", directory[3]
    variable = re.fullmatch(r"([A-Za-z_]\w*) ?(\+:=|:=|\+=|=) ?(.*)", line)
    assert variable, f"neither a variable nor a folder: {line!r}"
    return variable[1], variable[2], variable[3].strip()


@dataclass
class Session:
    """What a Maya gets out of a file."""

    modules: list[Module]
    python_path: list[Path] = field(default_factory=list)
    plug_in_path: list[Path] = field(default_factory=list)
    icon_path: list[Path] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def start(path: Path, maya: str, platform: str, separator: str = ":") -> Session:
    """What Maya of a version on a platform takes from a .mod file, from no environment."""
    found = {"MAYAVERSION": maya, "PLATFORM": platform, "LOCALE": "en_US"}
    session = Session([m for m in read(path) if m.conditions.items() <= found.items()])
    for module in session.modules:
        folders = {name: module.root / name for name in _DIRECTORIES}
        for name, operator, value in module.environment:
            if operator == "dir":
                folders[name] = module.root / value
                continue
            if ":" in operator:
                value = str(module.root / value)
            if operator.startswith("+"):
                value = session.environment.get(name, "") + separator + value
            session.environment[name] = value
        session.python_path.append(folders["scripts"])
        session.plug_in_path.append(folders["plug-ins"])
        session.icon_path.append(folders["icons"])
    return session
