# Readable for Python 2.7 and 3.x alike, so that an old one can say what it lacks.
# ruff: noqa: C402, UP031, UP036
"""Installs MegaSAM for Maya.

Drag this file into Maya's viewport, or run it with any Python 3.9 or newer, mayapy included:

    python install_maya.py [--maya 2026] [--wheelhouse DIR] [--dry-run] [--uninstall]

Maya keeps a dropped file's module for the whole session; the work is done in a process of its own,
and so always by the installer that lies beside this file.
"""

import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def main(arguments):
    """Run the installer; returns its exit code."""
    if sys.version_info < (3, 9):
        version = ".".join(str(number) for number in sys.version_info[:3])
        sys.stderr.write(
            "This is Python %s, and the installer needs 3.9 or newer.\n"
            "Run it with mayapy of Maya 2025 or newer, or drag it into Maya's viewport.\n" % version
        )
        return 2
    sys.dont_write_bytecode = True
    sys.path[:0] = [os.path.join(HERE, "shared"), os.path.join(HERE, "maya_plugin", "scripts")]
    try:
        from pathlib import Path

        from megasam_maya.install import command_line
    except ImportError as error:
        sys.stderr.write(
            "This copy of MegaSAM for Maya is not complete: %s.\n"
            "Unpack the whole download and run install_maya.py from there.\n" % error
        )
        return 2
    return command_line.main(arguments, Path(HERE))


def onMayaDroppedPythonFile(*_unused):  # noqa: N802 - Maya looks for this name
    """Maya calls this when the file is dropped into the viewport: install for this Maya."""
    from maya import cmds

    cmds.waitCursor(state=True)
    try:
        outcome = _run_installer(
            [
                "--json",
                "--maya",
                str(cmds.about(version=True)),
                "--modules",
                os.path.join(str(cmds.internalVar(userAppDir=True)), "modules"),
            ]
        )
    finally:
        cmds.waitCursor(state=False)
    if "error" in outcome:
        lines = [outcome["error"]["message"], outcome["error"]["hint"]]
    elif "megasam_shared" in sys.modules:
        # The plug-in or the window of another version is in use.
        lines = [outcome["messages"][0], "Restart Maya to use it."]
    else:
        lines = [outcome["messages"][0], _start(outcome["module_root"])]
    cmds.confirmDialog(title="MegaSAM", message="\n\n".join(lines), button=["OK"])


def _run_installer(arguments):
    # type: (list) -> dict
    """The installer's outcome as a dict, from a mayapy that knows nothing of this session."""
    name = "mayapy.exe" if sys.platform == "win32" else "mayapy"
    mayapy = os.path.join(os.environ.get("MAYA_LOCATION", ""), "bin", name)
    kept = dict((k, v) for k, v in os.environ.items() if not k.upper().startswith("PYTHON"))
    kept["PYTHONIOENCODING"] = "utf-8"
    no_window = 0x08000000 if sys.platform == "win32" else 0
    try:
        process = subprocess.Popen(
            [mayapy, "-s", "-B", os.path.join(HERE, "install_maya.py")] + arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=kept,
            creationflags=no_window,
        )
        out, said = process.communicate()
    except OSError as error:
        return _failure("%s cannot be started: %s." % (mayapy, error))
    try:
        return json.loads(out.decode("utf-8"))
    except ValueError:
        why = said.decode("utf-8", "replace").strip() or "it said nothing."
        return _failure("The installer stopped: " + why)


def _failure(message):
    # type: (str) -> dict
    hint = "Run install_maya.py in a terminal to see more."
    return {"error": {"code": "no_installer", "message": message, "hint": hint}}


def _start(module_root):
    """Use the new module in this session; returns what to tell the artist."""
    from maya import cmds

    sys.path.append(os.path.join(module_root, "scripts"))
    try:
        cmds.loadPlugin(
            os.path.join(module_root, "plug-ins", "megasam_plugin.py").replace("\\", "/")
        )
    except RuntimeError as error:
        return "It could not be started in this session (%s). Restart Maya." % error
    return "The menu MegaSAM is there now; the shelf comes with the next start of Maya."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
