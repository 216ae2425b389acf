"""The report of ``megasam doctor``."""

from __future__ import annotations

import json
import socket
import stat
import sys
from importlib import metadata

import pytest
from megasam_server.checkpoints.locate import BUILT_IN_VARIABLE, CHECKPOINTS_VARIABLE
from megasam_server.cli import doctor as doctor_module
from megasam_server.cli.doctor import doctor, examine
from megasam_shared.install_command import install_command


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def by_name(checks):
    return {check.name: check for check in checks}


def test_this_machine_can_solve_and_the_report_names_versions(tmp_path, free_port, capsys):
    assert doctor(tmp_path, free_port, as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["can_solve"] is True
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["pycolmap"]["found"] == metadata.version("pycolmap")
    assert checks["Engine (auto)"]["found"].startswith("classical")
    assert checks["Picture formats"]["state"] == "ok"
    assert checks["Movie codecs"]["state"] == "ok"
    assert {fact["licence"] for fact in report["checkpoints"]} >= {"Apache-2.0", "CC-BY-NC-4.0"}


def test_the_table_says_the_same_in_words(tmp_path, free_port, capsys):
    assert doctor(tmp_path, free_port) == 0
    said = capsys.readouterr().out
    assert "A solve can run on this machine." in said
    assert "pycolmap" in said
    assert "depth_anything_v2_vits.pth" in said


def test_a_package_that_cannot_be_imported_is_a_lack_with_advice(
    tmp_path, free_port, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert doctor(tmp_path, free_port) == 1
    said = capsys.readouterr().out
    assert "No solve can run on this machine: see pycolmap." in said
    doctor(tmp_path, free_port, as_json=True)
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert install_command("server") in checks["pycolmap"]["advice"]


def test_a_busy_port_and_found_checkpoints_are_notes(tmp_path, monkeypatch):
    (tmp_path / "raft-things.pth").write_bytes(b"cut off")
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(tmp_path))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        checks = by_name(examine(tmp_path, port))
    assert checks["Port"].state == "note"
    assert "in use" in checks["Port"].found
    assert "raft-things.pth (damaged)" in checks["Checkpoints"].found
    assert checks["Checkpoints"].advice == "Get again: raft_things"


def test_built_in_weights_are_named_beside_the_folder_of_the_others(
    tmp_path, free_port, monkeypatch
):
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(tmp_path))
    monkeypatch.delenv(BUILT_IN_VARIABLE)
    check = by_name(examine(tmp_path, free_port))["Checkpoints"]
    assert check.found.startswith(f"none in {tmp_path}; ")
    assert "raft_fp16.0.safetensors (built in)" in check.found


def test_a_jobs_folder_that_cannot_be_made_is_a_lack(tmp_path, free_port, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(doctor_module.tempfile, "TemporaryFile", refuse)
    check = by_name(examine(tmp_path / "not" / "there", free_port))["Jobs folder"]
    assert check.state == "lack"
    assert "Permission denied" in check.found
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="stands in for nvidia-smi with a shell script")
@pytest.mark.parametrize(
    ("script", "state", "found"),
    [
        ("echo 'GeForce, 8192 MiB, 7000 MiB, 550.1'", "ok", "presets: Fast"),
        ("echo 'Failed to initialize NVML'; exit 9", "note", "Failed to initialize NVML"),
    ],
)
def test_the_gpu_is_what_nvidia_smi_says(tmp_path, free_port, monkeypatch, script, state, found):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    check = by_name(examine(tmp_path, free_port))["GPU"]
    assert check.state == state
    assert found in check.found


def test_a_package_that_is_not_what_its_name_says_is_a_note(megasam, tmp_path, monkeypatch):
    packages = {
        "lietorch": "raise SystemExit('must not be imported')",  # the one of that name on PyPI
        "torch": "raise ImportError('libcudart.so.13: cannot open shared object file')",
    }
    for name, text in packages.items():
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    done = megasam("doctor", "--json")
    assert done.code == 0, done.err
    checks = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert checks["lietorch"]["state"] == checks["torch"]["state"] == "note"
    assert "unrelated PyPI package" in checks["lietorch"]["found"]
    assert "pip uninstall lietorch" in checks["lietorch"]["advice"]
    assert "cannot be imported (libcudart.so.13" in checks["torch"]["found"]
    # The command's Python may go by another of the environment's names than that of the tests.
    assert install_command("networks").partition('" -m')[2] in checks["torch"]["advice"]
