"""``megasam solve`` and ``megasam serve`` as processes, with a job function of the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from megasam_server.cli import main

from tests.server.service.conftest import JOB_FUNCTION, REPOSITORY, wait_until_gone

MEGASAM = [sys.executable, "-c", "from megasam_server.cli import main; main()"]


@pytest.fixture
def shell(tmp_path):
    """Run or start the command in a folder of its own."""

    class Shell:
        folder = tmp_path
        started: list[subprocess.Popen] = []
        environment = os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "MEGASAM_JOB_FUNCTION": JOB_FUNCTION,
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "COLUMNS": "100",
        }

        def start(self, *arguments: str) -> subprocess.Popen:
            process = subprocess.Popen(
                [*MEGASAM, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.started.append(process)
            return process

        def run(self, *arguments: str) -> tuple[int, str, str]:
            process = self.start(*arguments)
            out, errors = process.communicate(timeout=30)
            return process.returncode, out, errors

    shell = Shell()
    yield shell
    for process in shell.started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=10)


def write_plate(folder: Path, action: str, frames: int = 3) -> Path:
    folder.mkdir()
    for index in range(frames):
        text = action if index == 0 else str(index)
        (folder / f"sh010.{1001 + index}.exr").write_bytes(f"{action} {text}".encode())
    return folder


def test_solve_writes_results_and_says_so(shell):
    plate = write_plate(shell.folder / "plate", "solve")
    code, out, errors = shell.run("solve", str(plate))
    assert code == 0, errors
    assert "Verdict: good" in out and "solved 3 frames" in out and "Camera tracking" in out
    assert (shell.folder / "sh010_solve" / "camera_extrinsics.json").is_file()
    assert {path.name for path in shell.folder.iterdir()} == {"plate", "sh010_solve", "cache"}


def test_json_is_one_object_per_line_and_nothing_else(shell):
    plate = write_plate(shell.folder / "plate", "solve", frames=5)
    pattern = str(plate / "sh010.%04d.exr")
    arguments = ["--json", "--out", "shot/solve", "--frames", "1002-1004", "--preset", "fast"]
    code, out, errors = shell.run("solve", pattern, *arguments)
    assert code == 0, errors
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["event"] for event in events]
    assert {"upload", "job", "progress", "fetch", "result"} == set(kinds)
    result = events[-1]
    assert result["event"] == "result" and result["usable"] is True
    assert result["plate"] == ["sh010.1002.exr", "sh010.1003.exr", "sh010.1004.exr"]
    assert result["preset"] == "fast"
    assert Path(result["out"]) == shell.folder / "shot" / "solve"


def test_unusable_solve_is_written_but_no_success(shell):
    plate = write_plate(shell.folder / "plate", "unusable")
    code, out, _ = shell.run("solve", str(plate), "--out", "out")
    assert code == 1
    assert "Verdict: failed" in out and "too dark" in out
    assert (shell.folder / "out" / "camera_extrinsics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.mp4"], "no file or folder gone.mp4"),
        (["empty"], "holds no picture"),
        (["plate", "--frames", "5-6"], "1001-1003"),
        (["plate", "--frames", "x"], "no range of frames"),
        (["plate", "--tracking-resolution", "7"], "tracking_resolution = 7"),
        (["plate", "--focal-mm", "35"], "film back"),
        (["plate", "--masks", "gone"], "masks cannot be found"),
        (["plate", "--out", "taken"], "not the folder of an earlier solve"),
        (["plate", "--out", "plate/sh010.1001.exr/x"], "cannot be written"),
    ],
)
def test_mistakes_are_one_clear_line_and_leave_nothing(
    tmp_path, monkeypatch, capsys, arguments, words
):
    write_plate(tmp_path / "plate", "solve")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "work.ma").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["megasam", "solve", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} - {"cache"} == {"plate", "empty", "taken"}


def test_failed_job_keeps_an_earlier_solve(shell):
    plate = write_plate(shell.folder / "plate", "fail")
    earlier = shell.folder / "sh010_solve"
    earlier.mkdir()
    (earlier / "quality.json").write_text("{}")
    code, out, errors = shell.run("solve", str(plate), "--json")
    assert code == 2
    assert json.loads(out.splitlines()[-1]) == {
        "event": "error",
        "code": "plate_black",
        "message": "The plate is black.",
        "hint": "Shoot it again.",
    }
    assert "The plate is black." in errors
    assert [path.name for path in earlier.iterdir()] == ["quality.json"]
    assert not (shell.folder / "sh010_solve.partial").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a process of its own")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_cancels_the_job_on_the_server(shell, how):
    serving = shell.start(*("serve", "--bind", "tcp://127.0.0.1:0", "--state", "state"))
    address = serving.stdout.readline().split()[-1]
    note = shell.folder / "pids"
    plate = write_plate(shell.folder / "plate", f"hang {note}", frames=1)
    solving = shell.start("solve", str(plate), "--server", address, "--json")
    deadline = time.monotonic() + 15
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    solving.send_signal(how)
    out, errors = solving.communicate(timeout=10)
    assert solving.returncode == 130
    assert "stopped" in errors and "Traceback" not in errors
    wait_until_gone([int(pid) for pid in note.read_text().split()], timeout=2)
    assert not (shell.folder / "sh010_solve.partial").exists()
    serving.send_signal(how)
    _, log = serving.communicate(timeout=10)
    assert serving.returncode == 0
    assert "is cancelled" in log


def test_plate_below_a_media_root_is_not_uploaded(shell):
    plate = write_plate(shell.folder / "shows", "solve")
    serving = shell.start(
        *("serve", "--bind", "tcp://127.0.0.1:0", "--state", "state", "--media-root", str(plate))
    )
    address = serving.stdout.readline().split()[-1]
    options = ["--server", address, "--by-path", "--json"]
    first = str(plate / "sh010.1001.exr")
    code, out, errors = shell.run("solve", first, "--out", "out", *options)
    assert code == 0, errors
    assert "upload" not in {json.loads(line)["event"] for line in out.splitlines()}
    blobs = shell.folder / "state" / "blobs"
    assert not [path for path in blobs.rglob("*") if path.is_file()]
    code, _, errors = shell.run("solve", "/etc/passwd", *options)
    assert code == 2 and "media root" in errors
    serving.terminate()
    serving.communicate(timeout=10)


def test_serve_refuses_other_machines(shell):
    code, _, errors = shell.run("serve", "--bind", "tcp://0.0.0.0:5599", "--state", "state")
    assert code == 2 and "CURVE" in errors and "Traceback" not in errors
