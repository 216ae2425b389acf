"""The .mod file: one entry per Maya version and system, written from the template in mod/.

Rules of the format that the template keeps: the entry line begins with exactly "+ ", an empty line
or a comment ends an entry, paths have forward slashes and are relative to the .mod file, so that
no user name with a space in it gets into the file.
"""

from __future__ import annotations

from megasam_maya.maya_versions import MayaVersion, System

FILE_NAME = "MegaSAM.mod"


def render_entry(template: str, maya: MayaVersion, system: System, version: str, path: str) -> str:
    """One entry, with the line break at its end.

    Args:
        template: the text of mod/MegaSAM.mod.in.
        version: ours, as in ``0.1.0``.
        path: of the module folder, relative to the .mod file, forward slashes.
    """
    text = template
    for name, value in (
        ("@MAYA@", maya.name),
        ("@SYSTEM@", system.name),
        ("@VERSION@", version),
        ("@PATH@", path),
    ):
        text = text.replace(name, value)
    return text.strip() + "\n"


def render_file(entries: list[str]) -> str:
    """The whole file: entries follow each other without an empty line."""
    return "".join(sorted(entries))
