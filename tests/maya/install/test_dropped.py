"""install_maya.py dropped into the viewport: the stand-in for Maya in a process of its own, and a
stand-in for mayapy that it starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.maya.install import mod_reader
from tests.maya.install.conftest import CHECKOUT, SYSTEM


@pytest.fixture
def drop(newer_checkout, app_dir, wheelhouse, make_mayapy):
    """Drop the file some times into a session; what the artist saw."""
    shutil.copytree(wheelhouse, newer_checkout / "wheelhouse")

    def drop(drops: int = 1, version: str = "2026", location=None, batch=False) -> dict:
        wish = {
            "checkout": str(newer_checkout),
            "app_dir": str(app_dir),
            "version": version,
            "drops": drops,
            "batch": batch,
        }
        location = location or make_mayapy("2026")
        done = subprocess.run(
            [sys.executable, "-m", "tests.maya.install.drop_session", json.dumps(wish)],
            cwd=CHECKOUT,
            env=os.environ | {"MAYA_LOCATION": str(location)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return drop


def test_one_drop_installs_and_starts(drop, app_dir):
    seen = drop()
    mod = app_dir / "modules" / "MegaSAM.mod"
    (module,) = mod_reader.start(mod, "2026", SYSTEM).modules
    assert mod_reader.start(mod, "2025", SYSTEM).modules == [], "only for the Maya it fell into"
    (message,) = seen["dialogs"]
    assert "MegaSAM 0.2.0 is installed" in message and "menu MegaSAM is there" in message
    assert seen["menus"] == {"megasamMenu": ["Solve Camera..."]}
    assert seen["commands"] == ["megasam"]
    assert seen["shared"].startswith(str(module.root)), "runs from the installed copy"
    assert seen["busy"] == [True, False]
    assert seen["menus_left"] == {} and seen["commands_left"] == [], "the plug-in unloads"


def test_a_second_drop_into_the_same_session_asks_for_a_restart(drop, app_dir):
    seen = drop(drops=2)
    assert "Restart Maya" in seen["dialogs"][1]
    assert (app_dir / "modules" / "MegaSAM" / "0.2.0-2").is_dir()


def test_without_windows_the_plug_in_loads_without_a_menu(drop):
    seen = drop(batch=True)
    assert seen["commands"] == ["megasam"] and seen["menus"] == {}


def test_a_drop_into_an_unsupported_maya_says_so(drop, app_dir):
    seen = drop(version="2024")
    assert "Maya 2024 is not supported" in seen["dialogs"][0]
    assert "2025, 2026, 2027" in seen["dialogs"][0]
    assert seen["busy"] == [True, False] and not app_dir.exists()


def test_a_mayapy_that_is_not_there_or_breaks_is_said(drop, app_dir, tmp_path, make_mayapy):
    seen = drop(location=tmp_path)
    assert "cannot be started" in seen["dialogs"][0]
    broken = make_mayapy("2026", before='echo "libpython is missing" >&2; exit 127')
    seen = drop(location=broken)
    assert "libpython is missing" in seen["dialogs"][0]
    assert not app_dir.exists()
