"""The plug-in against the stubs of Maya's commands: wrong flags and types show without a Maya."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
# What is right and pyright complains of, because the stubs come from documentation with gaps.
STUB_GAPS = (
    (r"cmds\.xform\(\w+, query=True, worldSpace=True", "a query takes the space as well"),
    (r"cmds\.currentTime\(", "its page has edit and query"),
    (r"cmds\.workspaceControl\(\w+, query=True, exists=True\)", "as in Autodesk's examples"),
    (r"OpenMayaUI\.MQtUtil", "the stub of API 1.0 is almost empty"),
    (r"wrapInstance\(int\(\w+\), QWidget\)", "shiboken6 returns the class it is given"),
    (r"list\(times\)", "keyframe answers such queries with lists"),
)
RULES = {"reportCallIssue", "reportArgumentType", "reportAttributeAccessIssue"}
OURS = (
    *("install_maya.py", "maya_plugin/plug-ins", "maya_plugin/scripts/megasam_maya/install"),
    *("maya_plugin/scripts/megasam_maya/vendored.py", "tests/maya_smoke.py"),
    "maya_plugin/scripts/megasam_maya/maya_versions.py",
)
# Three errors, one in each line after the first.
PLANTED = """from maya import cmds
cmds.camera(focalLenght=35.0)
cmds.setKeyframe("a.tx", tiem=1)
cmds.makeCamera()
"""


def maya_callers() -> list[Path]:
    """Every module of the plug-in that imports ``maya.*``."""
    sources = sorted((CHECKOUT / "maya_plugin").rglob("*.py"))
    importing = re.compile(r"^\s*(import|from) maya\b", re.MULTILINE)
    return [path for path in sources if importing.search(path.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> list[dict]:
    """What pyright says of all files, in one run: most of it goes into reading the stubs.

    Skips where pyright or the stubs cannot run.
    """
    command = Path(sys.executable).with_name("pyright")
    if not command.exists():
        pytest.skip("pyright is not installed: pip install pyright types-maya")
    if importlib.util.find_spec("maya-stubs") is None:
        pytest.skip("types-maya is not installed: pip install types-maya")
    if shutil.which("node") is None:
        pytest.skip("pyright needs node, and would download it")
    planted = tmp_path_factory.mktemp("planted") / "planted.py"
    planted.write_text(PLANTED)
    files = [str(planted), *map(str, maya_callers()), *(str(CHECKOUT / path) for path in OURS)]
    done = subprocess.run(
        [str(command), "--outputjson", "--pythonpath", sys.executable, *files],
        cwd=CHECKOUT,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
    )
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {(done.stderr or done.stdout).strip()[-300:]}")
    return json.loads(done.stdout)["generalDiagnostics"]


def errors(said: list[dict], within: Callable[[Path], bool]) -> list[tuple[str, str]]:
    """(file:line, rule and message) of errors in some files, without known gaps of the stubs."""
    found = []
    for entry in said:
        path = Path(entry["file"])
        number = entry["range"]["start"]["line"]
        line = path.read_text(encoding="utf-8").splitlines()[number]
        known = any(re.search(pattern, line) for pattern, _ in STUB_GAPS)
        if entry["severity"] == "error" and within(path) and not known:
            message = entry["message"].splitlines()[0]
            found.append((f"{path.name}:{number + 1}", f"{entry.get('rule')} {message}"))
    return found


def test_maya_is_called_as_its_documentation_says(said):
    """Calls, arguments and names in every module that imports ``maya.*``."""
    callers = maya_callers()
    assert {"host.py", "megasam_plugin.py"} <= {path.name for path in callers}
    found = errors(said, lambda path: path in callers)
    assert [entry for entry in found if entry[1].split()[0] in RULES] == []


def test_plugin_installer_and_smoke_test_have_no_type_errors(said):
    ours = [CHECKOUT / path for path in OURS]
    assert errors(said, lambda path: any(path.is_relative_to(folder) for folder in ours)) == []


def test_a_wrong_flag_would_be_found(said):
    """The checks above are worth something: planted errors are found."""
    found = errors(said, lambda path: path.name == "planted.py")
    assert [where for where, _ in found] == ["planted.py:2", "planted.py:3", "planted.py:4"]
