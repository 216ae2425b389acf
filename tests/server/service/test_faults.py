"""Cancel, crashes, deaths: the job ends with a reason, the server goes on, nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from megasam_server.service.options import ServerOptions
from megasam_server.service.private import PrivateServer
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import Progress, Result
from megasam_shared.settings import SolveSettings

from tests.server.service.conftest import JOB_FUNCTION, pids_in, wait_until_gone
from tests.server.service.curve_server import running

SERVE = [sys.executable, "-m", "megasam_server.service.private"]


def test_cancel_frees_the_worker_and_the_next_job_runs(server, client, hanging_job, make_plate):
    job, pids = hanging_job()
    plate = client.upload(make_plate())
    following = client.submit(plate, SolveSettings())
    assert following.position == 0 and following.state == "queued"
    started = time.monotonic()
    assert client.cancel(job).state == "cancelled"
    wait_until_gone(pids, timeout=2)
    assert client.wait(following.job, timeout=10).state == "done"
    # Idle again and the next, short, job solved.
    assert time.monotonic() - started < 4
    assert client.attach(job).state == "cancelled"
    assert client.cancel(following.job).state == "done"
    # Of the cancelled job, the log and the message are left.
    folder = server._state / "jobs" / job
    assert {path.name for path in folder.iterdir()} == {"worker.log", "result.msgpack", "job.json"}


def test_cancel_of_a_waiting_job_leaves_the_running_one_alone(client, hanging_job, make_plate):
    job, pids = hanging_job()
    waiting = client.submit(client.upload(make_plate()), SolveSettings())
    assert client.cancel(waiting.job).state == "cancelled"
    assert client.attach(job).state == "running"
    client.cancel(job)
    wait_until_gone(pids, timeout=2)


def test_running_job_gives_signs_of_life_while_its_stage_is_silent(client, hanging_job):
    job, _ = hanging_job()
    seen = []
    with pytest.raises(MegasamError, match="not over"):
        client.wait(job, seen.append, timeout=3.2)
    progress = [event for event in seen if isinstance(event, Progress)]
    elapsed = [event.elapsed for event in progress if event.stage == "tracking"]
    assert len(elapsed) >= 3
    assert max(b - a for a, b in zip(elapsed, elapsed[1:], strict=False)) < 1.2
    assert 0 < progress[-1].fraction < 1 and progress[-1].eta > 0


def test_killed_worker_is_replaced_once_and_then_fails_its_job_only(
    client, hanging_job, make_plate, tmp_path
):
    job, pids = hanging_job()
    (note,) = tmp_path.glob("pids_*")
    for attempt in (1, 2):
        worker, child = pids
        note.unlink()
        os.kill(worker, signal.SIGKILL)
        wait_until_gone([child], timeout=2)
        if attempt == 1:
            pids = pids_in(note)
            info = client.attach(job)
            assert (info.state, info.attempts) == ("running", 2)
    result = client.wait(job, timeout=10)
    assert (result.state, result.error.code) == ("failed", "worker_died")
    assert not note.exists(), "it was started a third time"
    after = client.submit(client.upload(make_plate()), SolveSettings())
    assert client.wait(after.job, timeout=15).state == "done"


def test_client_notices_a_dead_server_and_the_worker_goes_too(server, client, hanging_job):
    job, pids = hanging_job()
    waiting = client.in_background(client.wait, job)
    time.sleep(0.3)
    os.kill(server.pid, signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(MegasamError) as caught:
        waiting.result(10)
    assert caught.value.code == "server_lost"
    assert time.monotonic() - killed < 5
    wait_until_gone(pids, timeout=2)
    with pytest.raises(MegasamError) as caught:
        client.list_jobs()
    assert caught.value.code == "server_lost"


def test_frozen_server_counts_as_dead_and_is_found_again(server, client):
    os.kill(server.pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 5
        while client.connected:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    client.connect(10)
    assert client.list_jobs() == []


def start_server(state: Path) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [*SERVE, str(state), JOB_FUNCTION], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    return process, json.loads(process.stdout.readline())["address"]


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_jobs_survive_the_death_of_the_server(tmp_path, make_plate):
    state, note = tmp_path / "state", tmp_path / "pids"
    process, address = start_server(state)
    with SolverClient(address) as client:
        client.connect(10)
        done = client.submit(client.upload(make_plate()), SolveSettings()).job
        client.wait(done, timeout=15)
        running = client.submit(
            client.upload(make_plate(f"hang {note}", frames=1)), SolveSettings()
        ).job
        queued = client.submit(client.upload(make_plate()), SolveSettings()).job
        while not note.exists():
            time.sleep(0.02)
        kill(process)

    note.unlink()
    process, address = start_server(state)
    with SolverClient(address) as client:
        client.connect(10)
        assert isinstance(client.attach(done), Result)
        while not note.exists():  # the job that ran is run once more
            time.sleep(0.02)
        assert client.attach(running).state == "running"
    kill(process)

    process, address = start_server(state)
    with SolverClient(address) as client:
        client.connect(10)
        worn_out = client.wait(running, timeout=10)
        assert (worn_out.state, worn_out.error.code) == ("failed", "server_died")
        assert client.wait(queued, timeout=15).state == "done"
        assert [job.job for job in client.list_jobs()] == [queued, running, done]
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()
    assert not state.exists()


def test_private_server_ends_when_its_parent_is_killed(tmp_path, make_plate):
    script = """
import sys, time
from pathlib import Path
from megasam_shared.client import SolverClient
from megasam_shared.settings import SolveSettings
from megasam_server.service.private import PrivateServer
with PrivateServer(sys.argv[1]) as server, SolverClient(server.address) as client:
    client.connect(10)
    client.submit(client.upload([Path(sys.argv[2])]), SolveSettings())
    print(server.pid, server._state, flush=True)
    time.sleep(600)
"""
    note = tmp_path / "pids"
    (plate,) = make_plate(f"hang {note}", frames=1)
    parent = subprocess.Popen(
        [sys.executable, "-c", script, JOB_FUNCTION, str(plate)], stdout=subprocess.PIPE, text=True
    )
    server_pid, state = parent.stdout.readline().split()
    deadline = time.monotonic() + 15
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until_gone([int(server_pid), *map(int, note.read_text().split())], timeout=5)
    assert not Path(state).exists()


def test_solver_that_cannot_be_imported_fails_the_job(make_plate):
    with PrivateServer("no.such.module:run_job") as server, SolverClient(server.address) as client:
        client.connect(10)
        job = client.submit(client.upload(make_plate()), SolveSettings())
        result = client.wait(job.job, timeout=15)
    assert result.error.code == "internal_error"
    assert "No module named 'no'" in result.error.message


def test_worker_that_cannot_start_fails_the_jobs_that_wait(make_plate, tmp_path, monkeypatch):
    # Python is gone: whatever is started ends at once, and never says that it is ready.
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    options = ServerOptions(tmp_path / "state", "tcp://127.0.0.1:0", gpus=["cpu"])
    with running(options) as server, SolverClient(server.address) as client:
        client.connect(10)
        job = client.submit(client.upload(make_plate()), SolveSettings()).job
        result = client.wait(job, timeout=15)
    assert (result.state, result.error.code) == ("failed", "worker_cannot_start")
    assert "ended with exit code 1" in result.error.message and result.error.hint
