"""Install, upgrade, uninstall: what lies on disk before and after."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.maya.install import mod_reader
from tests.maya.install.conftest import CHECKOUT, SYSTEM, tree


def folder_of(installer, maya):
    (module,) = mod_reader.start(installer.mod, maya, SYSTEM).modules
    return module.root


def test_a_dry_run_names_every_file_and_writes_none(installer, tmp_path):
    planned = installer.install("--maya", "2026", "--dry-run")
    assert tree(tmp_path) == {}
    installer.install("--maya", "2026")
    written = [str(p) for p in (installer.app_dir / "modules").rglob("*") if p.is_file()]
    assert sorted(planned["files"]) == sorted(written)
    assert str(installer.mod) in planned["files"]


def test_a_dry_run_over_an_installed_version_changes_nothing(installer, tmp_path):
    installer.install("--maya", "2026")
    before = tree(tmp_path)
    installer.install("--maya", "2026", "--dry-run")
    done = installer.run("--uninstall", "--dry-run")
    assert done.returncode == 0 and str(installer.mod) in done.stdout
    assert tree(tmp_path) == before


def test_uninstalling_leaves_nothing_behind_and_touches_nothing_else(installer, tmp_path):
    prefs = installer.app_dir / "2026" / "prefs" / "userPrefs.mel"
    prefs.parent.mkdir(parents=True)
    prefs.write_text("// mine")
    other = installer.app_dir / "modules" / "otherTool.mod"
    other.parent.mkdir()
    other.write_text("+ otherTool 1.0 ./other\n")
    before = tree(tmp_path)
    installer.install("--maya", "2026")
    # Maya has run it: there is bytecode now.
    subprocess.run(
        [sys.executable, "-c", "import megasam_maya, zmq"],
        env={"PYTHONPATH": str(folder_of(installer, "2026") / "scripts")},
        check=True,
    )
    assert list(folder_of(installer, "2026").rglob("*.pyc"))
    assert installer.run("--uninstall").returncode == 0
    assert tree(tmp_path) == before


def test_uninstalling_removes_the_folders_that_installing_made(installer, tmp_path):
    installer.install("--maya", "2025")
    installer.install("--maya", "2026")
    installer.run("--uninstall")
    assert tree(tmp_path) == {}
    done = installer.run("--uninstall")
    assert done.returncode == 0 and "nothing to uninstall" in done.stdout


def test_an_installed_copy_can_uninstall_itself(installer, tmp_path):
    installer.install("--maya", "2026")
    scripts = folder_of(installer, "2026") / "scripts"
    for arguments, code in ((["--maya", "2026"], 2), (["--uninstall"], 0)):
        done = subprocess.run(
            [sys.executable, "-m", "megasam_maya.install", *arguments],
            env={"PYTHONPATH": str(scripts), "MAYA_APP_DIR": str(installer.app_dir)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
    assert tree(tmp_path) == {}


def test_files_of_other_people_in_our_folder_survive(installer):
    installer.install("--maya", "2026")
    notes = folder_of(installer, "2026") / "scripts" / "my notes.txt"
    notes.write_text("mine")
    done = installer.run("--uninstall")
    assert done.returncode == 0 and str(notes) in done.stdout
    assert [p for p in installer.app_dir.rglob("*") if p.is_file()] == [notes]


def test_an_upgrade_leaves_the_version_that_runs_alone_until_the_next(installer, newer_checkout):
    installer.install("--maya", "2026")
    old = folder_of(installer, "2026")
    before = tree(old)
    newer = replace(installer, script=newer_checkout / "install_maya.py")
    newer.install("--maya", "2026")
    new = folder_of(installer, "2026")
    assert new.name == "0.2.0" and old.name == "0.1.0"
    assert tree(old) == before, "Maya still runs from there"
    newer.install("--maya", "2026")
    assert not old.exists()
    assert folder_of(installer, "2026").name == "0.2.0-2"
    newer.run("--uninstall")
    assert not installer.app_dir.exists()


def test_two_versions_side_by_side(installer, newer_checkout):
    installer.install("--maya", "2025", "--maya", "2026")
    newer = replace(installer, script=newer_checkout / "install_maya.py")
    newer.install("--maya", "2026")
    assert folder_of(installer, "2025").name == "0.1.0"
    assert folder_of(installer, "2026").name == "0.2.0"
    newer.install("--maya", "2026")
    assert folder_of(installer, "2025").is_dir(), "still used by 2025"
    newer.run("--uninstall", "--maya", "2026")
    assert mod_reader.start(installer.mod, "2026", SYSTEM).modules == []
    assert [p.name for p in (installer.app_dir / "modules" / "MegaSAM").glob("0*")] == ["0.1.0"]
    newer.run("--uninstall", "--maya", "2025")
    assert not installer.app_dir.exists()


def test_each_maya_that_is_on_the_machine_is_found_and_tried_out(installer, make_mayapy, tmp_path):
    called = tmp_path / "called"
    location = make_mayapy("2025", before=f'echo "$0" >> "{called}"')
    outcome = installer.install(environment={"MAYA_LOCATION": str(location)})
    assert mod_reader.start(installer.mod, "2025", SYSTEM).modules
    assert called.read_text().splitlines() == [str(location / "bin" / "mayapy")]
    assert not any("Not tried out" in message for message in outcome["messages"])


def test_what_was_not_tried_out_is_said(installer):
    outcome = installer.install("--maya", "2027")
    if sys.version_info[:2] == (3, 13):
        pytest.skip("this Python can try it out")
    assert any("Not tried out for Maya 2027" in message for message in outcome["messages"])


def test_a_wheelhouse_beside_the_installer_is_taken(installer, newer_checkout, wheelhouse):
    shutil.copytree(wheelhouse, newer_checkout / "wheelhouse")
    beside = replace(installer, script=newer_checkout / "install_maya.py")
    assert beside.run("--maya", "2026").returncode == 0
    assert folder_of(installer, "2026").name == "0.2.0"


def test_an_update_of_maya_belongs_to_its_version(installer):
    installer.install("--maya", "2026.3")
    assert mod_reader.start(installer.mod, "2026", SYSTEM).modules


def test_installing_writes_nothing_into_the_download(installer, newer_checkout):
    before = tree(newer_checkout)
    replace(installer, script=newer_checkout / "install_maya.py").install("--maya", "2026")
    assert tree(newer_checkout) == before


def test_an_environment_made_for_another_python_does_no_harm(installer, make_mayapy):
    location = make_mayapy("2026")
    # The installer's own Python has to start; mayapy is what gets the poison handed down.
    script = (
        "import os, runpy, sys; os.environ.update(PYTHONHOME='/nowhere', PYTHONPATH='/nowhere');"
        f"sys.argv[0] = {str(CHECKOUT / 'install_maya.py')!r};"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environment = {"MAYA_APP_DIR": str(installer.app_dir), "MAYA_LOCATION": str(location)}
    done = subprocess.run(
        [sys.executable, "-c", script, "--wheelhouse", str(installer.wheelhouse), "--json"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in json.loads(done.stdout)
