"""An artist's home, a wheelhouse, stand-ins for mayapy, and the installer as a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from megasam_maya.maya_versions import this_system

from tests.maya.install import tiny_wheels

CHECKOUT = Path(__file__).parents[3]
SYSTEM = this_system().name


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory) -> Path:
    return tiny_wheels.fill(tmp_path_factory.mktemp("wheels") / "house with spaces")


@pytest.fixture
def app_dir(tmp_path) -> Path:
    """MAYA_APP_DIR of somebody whose name is no ASCII and has a space; it does not exist yet."""
    return tmp_path / "Zoë Müller" / "maya"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
    }


@dataclass
class Installer:
    """Runs install_maya.py in a process of its own, in somebody's environment."""

    app_dir: Path
    wheelhouse: Path
    script: Path = CHECKOUT / "install_maya.py"
    python: str = sys.executable

    def run(self, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAYA_", "PYTHON"))}
        environment |= {"MAYA_APP_DIR": str(self.app_dir)} | more.pop("environment", {})
        return subprocess.run(
            [self.python, str(self.script), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            **more,
        )

    def install(self, *arguments: str, **more) -> dict:
        """Install offline; the outcome. Fails the test when the installer does."""
        done = self.run("--wheelhouse", str(self.wheelhouse), "--json", *arguments, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def refuses(self, *arguments: str, **more) -> dict:
        """The error of an install that must not succeed."""
        done = self.run("--wheelhouse", str(self.wheelhouse), "--json", *arguments, **more)
        assert done.returncode == 2, done.stdout + done.stderr
        error = json.loads(done.stdout)["error"]
        assert error["message"] and error["hint"], error
        return error

    @property
    def mod(self) -> Path:
        return self.app_dir / "modules" / "MegaSAM.mod"


@pytest.fixture
def installer(app_dir, wheelhouse) -> Installer:
    return Installer(app_dir, wheelhouse)


@pytest.fixture
def newer_checkout(tmp_path) -> Path:
    """A download of version 0.2.0: what the installer needs of this checkout, with that number."""
    target = tmp_path / "MegaSAM 0.2.0"
    junk = shutil.ignore_patterns("__pycache__", "docs")
    for name in ("maya_plugin", "mod", "shared"):
        shutil.copytree(CHECKOUT / name, target / name, ignore=junk)
    shutil.copy(CHECKOUT / "install_maya.py", target)
    init = target / "shared" / "megasam_shared" / "__init__.py"
    text = init.read_text(encoding="utf-8")
    assert '"0.1.0"' in text
    init.write_text(text.replace('"0.1.0"', '"0.2.0"'), encoding="utf-8")
    return target


@pytest.fixture
def make_mayapy(tmp_path) -> Callable[..., Path]:
    """Make MAYA_LOCATION of a version, whose mayapy is a shell script around this Python."""

    def make(version: str, before: str = "", python: str = sys.executable) -> Path:
        if os.name == "nt":
            pytest.skip("the stand-in for mayapy is a shell script")
        location = tmp_path / "autodesk" / f"maya{version}"
        mayapy = location / "bin" / "mayapy"
        mayapy.parent.mkdir(parents=True, exist_ok=True)
        mayapy.write_text(f'#!/bin/sh\n{before}\nexec "{python}" "$@"\n', encoding="utf-8")
        mayapy.chmod(0o755)
        return location

    return make
