"""Where Maya looks, on each system; and the Pythons that may run the installer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from megasam_maya import maya_versions
from megasam_maya.install import places
from megasam_maya.maya_versions import MAYA_VERSIONS, system_named, version_named

from tests.maya.install.conftest import CHECKOUT

HOME = Path("/home/Zoë Müller")


@pytest.mark.parametrize(
    ("system", "environment", "expected"),
    [
        ("win64", {}, HOME / "Documents" / "maya"),
        ("linux", {}, HOME / "maya"),
        ("mac", {}, HOME / "Library" / "Preferences" / "Autodesk" / "maya"),
        ("linux", {"MAYA_APP_DIR": "/shows/mine"}, Path("/shows/mine")),
        ("linux", {"MAYA_APP_DIR": f"/a{os.pathsep}/b"}, Path("/a")),
        ("win64", {"MAYA_APP_DIR": " "}, HOME / "Documents" / "maya"),
    ],
)
def test_the_folder_of_an_artist(system, environment, expected):
    assert places.maya_app_dir(system_named(system), environment, HOME) == expected


def test_documents_in_onedrive(tmp_path):
    win64, cloud = system_named("win64"), tmp_path / "OneDrive"
    environment = {"OneDrive": str(cloud)}
    local = tmp_path / "Documents" / "maya"
    assert places.maya_app_dir(win64, environment, tmp_path) == local
    (cloud / "Documents" / "maya").mkdir(parents=True)
    assert places.maya_app_dir(win64, environment, tmp_path) == cloud / "Documents" / "maya"
    local.mkdir(parents=True)
    assert places.maya_app_dir(win64, environment, tmp_path) == local


def test_preferences_do_not_prove_that_maya_is_installed(tmp_path, make_mayapy):
    linux = system_named("linux")
    (tmp_path / "maya" / "2026").mkdir(parents=True)
    assert places.mayapy(version_named("2026"), linux, {}) is None
    location = make_mayapy("2026")
    environment = {"MAYA_LOCATION": str(location)}
    assert places.mayapy(version_named("2026"), linux, environment) == location / "bin" / "mayapy"
    assert places.mayapy(version_named("2025"), linux, environment) is None
    assert places.found_versions(linux, environment) == [version_named("2026")]


def test_the_table_of_versions():
    assert [v.name for v in MAYA_VERSIONS] == ["2025", "2026", "2027"]
    assert {v.python for v in MAYA_VERSIONS} == {(3, 11), (3, 13)}
    for version in MAYA_VERSIONS:
        assert all(system_named(name) is not None for name in version.systems)
    assert version_named("2026.3") is version_named("2026")
    assert version_named("20") is None and system_named("irix") is None
    if sys.version_info[:2] == (3, 11) and sys.platform == "linux":
        assert maya_versions.running_vendor_tag() == "cp311-linux-x86_64"


def interpreter(version: str) -> str:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode != 0:
        pytest.skip(f"no Python {version} here")
    return python


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13"])
def test_any_newer_python_installs(installer, version, tmp_path):
    installer.python = interpreter(version)
    installer.install("--maya", "2026", "--maya", "2027")
    assert installer.mod.is_file()
    installer.run("--uninstall")
    assert not installer.app_dir.exists()


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.8"])
def test_an_older_python_says_what_it_lacks(version):
    command = [interpreter(version), str(CHECKOUT / "install_maya.py"), "--maya", "2026"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"This is Python {version}" in done.stderr and "3.9 or newer" in done.stderr
    assert "mayapy" in done.stderr and "Traceback" not in done.stderr
