"""The .mod file, read by an independent reader, for every supported Maya and system."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from megasam_maya.maya_versions import MAYA_VERSIONS, SYSTEMS

from tests.maya.install import mod_reader
from tests.maya.install.conftest import SYSTEM

EVERY = [(maya, system) for maya in MAYA_VERSIONS for system in SYSTEMS]


@pytest.fixture
def everywhere(installer, tmp_path):
    """A studio's folder, prepared for all versions and systems at once."""
    platforms = [word for system in SYSTEMS for word in ("--platform", system.name)]
    installer.install("--modules", str(tmp_path / "studio"), *platforms)
    return tmp_path / "studio" / "MegaSAM.mod"


def test_each_maya_on_each_system_gets_one_module_with_its_own_packages(everywhere):
    for maya, system in EVERY:
        session = mod_reader.start(everywhere, maya.name, system.name)
        (module,) = session.modules
        assert (module.name, module.version) == ("MegaSAM", "0.1.0")
        (scripts,) = session.python_path
        assert {"megasam_maya", "megasam_shared"} <= {p.name for p in scripts.iterdir()}
        assert (session.plug_in_path[0] / "megasam_plugin.py").is_file()
        assert (session.icon_path[0] / "megasam_solve.png").is_file()
        for architecture in system.architectures:
            vendor = module.root / "vendor" / f"{maya.python_tag}-{system.name}-{architecture}"
            tags = (vendor / "msgpack" / "__init__.py").read_text()
            assert maya.python_tag in tags
            assert {"win64": "win", "linux": "manylinux", "mac": "macosx"}[system.name] in tags
            assert (vendor / "zmq" / "__init__.py").is_file()


def test_a_maya_that_is_not_supported_gets_nothing(everywhere):
    for version in ("2024", "2028"):
        assert mod_reader.start(everywhere, version, SYSTEM).modules == []


def test_the_shelf_comes_through_its_path_and_names_an_icon_that_is_there(everywhere):
    session = mod_reader.start(everywhere, "2026", "win64", separator=";")
    shelves = session.environment["MAYA_SHELF_PATH"].lstrip(";")
    assert set(session.environment) == {"MAYA_SHELF_PATH"}, "nothing that other tools would feel"
    shelf = (everywhere.parent / shelves / "shelf_MegaSAM.mel").read_text(encoding="ascii")
    assert "global proc shelf_MegaSAM()" in shelf, "Maya calls the procedure of the file's name"
    assert shelf.count("{") == shelf.count("}") and shelf.count('"') % 2 == 0
    assert shelf.count("`") % 2 == 0
    images = {line.split('"')[1] for line in shelf.splitlines() if "-image" in line}
    assert images and all((session.icon_path[0] / image).is_file() for image in images)


def test_nothing_but_the_mod_file_lies_where_maya_looks_for_mod_files(everywhere):
    assert [p.name for p in everywhere.parent.iterdir() if p.is_file()] == ["MegaSAM.mod"]


def test_a_mayapy_with_only_the_modules_paths_imports_everything(installer, tmp_path):
    installer.install("--maya", "2026")
    session = mod_reader.start(installer.mod, "2026", SYSTEM)
    program = (
        "import json, sys; sys.path += json.loads(sys.argv[1])\n"
        "import megasam_maya, megasam_shared, zmq, msgpack\n"
        "modules = [megasam_maya, megasam_shared, zmq, msgpack]\n"
        "print(json.dumps([m.__file__ for m in modules]))"
    )
    path = json.dumps([str(folder) for folder in session.python_path])
    # -S: without site-packages, where this machine has all four as well.
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-S", "-c", program, path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    root = str(session.modules[0].root)
    assert all(file.startswith(root) for file in json.loads(done.stdout)), done.stdout
