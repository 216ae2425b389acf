"""Which pyzmq and msgpack a session gets, when other tools bring theirs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.maya.install import mod_reader, tiny_wheels
from tests.maya.install.conftest import SYSTEM

PROGRAM = """
import json, sys
path, first = json.loads(sys.argv[1])
sys.path += path
for name in first:
    __import__(name)
from megasam_maya import vendored
from megasam_shared.errors import MegasamError
try:
    print(json.dumps([[p.name, p.version, p.ours] for p in vendored.load()]))
except MegasamError as error:
    print(json.dumps(error.to_map()))
"""


@pytest.fixture
def load(installer):
    """What ``vendored.load`` says, with another tool's folder earlier on the path or loaded."""
    installer.install("--maya", "2026")
    scripts = mod_reader.start(installer.mod, "2026", SYSTEM).python_path

    def load(other=None, first=(), remove=False):
        if remove:
            for folder in (scripts[0].parent / "vendor").iterdir():
                folder.rename(folder.with_name("cp399-" + folder.name))
        path = [*([str(other)] if other else []), *map(str, scripts)]
        done = subprocess.run(
            [sys.executable, "-E", "-s", "-S", "-c", PROGRAM, json.dumps([path, list(first)])],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return load


@pytest.fixture
def other_tool(tmp_path):
    """A folder with another tool's zmq of some version."""

    def make(version: str):
        package = tmp_path / "other tool" / "zmq"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f'__version__ = "{version}"\n')
        return package.parent

    return make


def test_ours_when_nobody_else_brings_any(load):
    versions = tiny_wheels.VERSIONS
    assert load() == [["pyzmq", versions["pyzmq"], True], ["msgpack", versions["msgpack"], True]]


@pytest.mark.parametrize("first", [(), ("zmq",)])
def test_another_tools_copy_that_is_new_enough_is_used(load, other_tool, first):
    assert load(other_tool("26.0.0b1"), first)[0] == ["pyzmq", "26.0.0b1", False]


@pytest.mark.parametrize("first", [(), ("zmq",)])
def test_another_tools_old_copy_is_named(load, other_tool, first):
    said = load(other_tool("19.0.2"), first)
    assert said["code"] == "package_too_old"
    assert "19.0.2" in said["message"] and "other tool" in said["message"] and said["hint"]


def test_packages_for_another_python_are_as_good_as_none(load):
    said = load(remove=True)
    assert said["code"] == "package_missing" and "install_maya.py" in said["hint"]
