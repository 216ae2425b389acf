"""Servers that are killed, clocks that jump, an index that is damaged: nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import zmq
from megasam_server.service import housekeeping, sessions
from megasam_server.service.jobs import JobStore
from megasam_server.service.options import ServerOptions, StorageLimits
from megasam_server.service.state_index import INDEX_NAME
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import HEARTBEAT_EVERY, PROTOCOL_VERSION, Hello, Progress
from megasam_shared.settings import SolveSettings
from megasam_shared.wire import encode

from tests.server.service.conftest import JOB_FUNCTION, pids_in, wait_until_gone
from tests.server.service.curve_server import running
from tests.server.service.serving import Serving, files_below, gc, wait_for


def test_killed_server_with_three_jobs_queued(make_plate, tmp_path):
    state, note, counted = tmp_path / "state", tmp_path / "pids", tmp_path / "counted"
    server = Serving(state)
    with SolverClient(server.address) as client:
        client.connect(10)
        running = client.submit(client.upload(make_plate(f"once flow {note}")), SolveSettings()).job
        pids = pids_in(note)
        plate = client.upload(make_plate(f"count {counted}"))
        queued = [client.submit(plate, SolveSettings(), name=str(n)).job for n in range(3)]
        waiting = client.in_background(client.wait, running)
        server.kill()
        with pytest.raises(MegasamError) as caught:
            waiting.result(10)
        assert caught.value.code == "server_lost" and "attach" in caught.value.hint
    wait_until_gone(pids, timeout=3)

    with Serving(state) as server, SolverClient(server.address) as client:
        client.connect(10)
        listed = {info.job: info for info in client.list_jobs()}
        assert set(listed) == {running, *queued}
        results = {job: client.wait(job, timeout=20) for job in (running, *queued)}
        assert all(result.state == "done" for result in results.values())
        attempts = {info.job: info.attempts for info in client.list_jobs()}
        assert attempts[running] == 2 and all(attempts[job] == 1 for job in queued)
        # Each once, in the order in which they came.
        assert counted.read_text().split() == queued
        fetched = client.fetch(running, results[running].artefacts, tmp_path / "out")
        assert len(fetched) == 5
    assert not list((state / "workers").iterdir())
    assert {path.name for path in (state / "jobs").iterdir()} == {running, *queued}


def test_killed_client_leaves_its_job_to_whoever_comes_next(server, make_plate, tmp_path):
    note = tmp_path / "pids"
    script = """
import sys, time
from pathlib import Path
from megasam_shared.client import SolverClient
from megasam_shared.settings import SolveSettings
with SolverClient(sys.argv[1]) as client:
    client.connect(10)
    print(client.submit(client.upload([Path(sys.argv[2])]), SolveSettings()).job, flush=True)
    time.sleep(600)
"""
    (plate,) = make_plate(f"once flow {note}", frames=1)
    command = [sys.executable, "-c", script, server.address, str(plate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        job = killed.stdout.readline().strip()
        pids = pids_in(note)
        killed.kill()
    with SolverClient(server.address) as client:
        client.connect(10)
        assert [info.job for info in client.list_jobs()] == [job]
        assert client.attach(job).state == "running"
        os.kill(pids[0], 9)
        result = client.wait(job, timeout=15)
        assert result.state == "done"
        assert len(client.fetch(job, result.artefacts, tmp_path / "out")) == len(result.artefacts)


def test_client_that_falls_silent_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "CLIENT_SILENT_AFTER", 2 * HEARTBEAT_EVERY)
    options = ServerOptions(tmp_path / "state", "tcp://127.0.0.1:0", job_function=JOB_FUNCTION)
    with running(options) as server, SolverClient(server.address, name="alive") as alive:
        alive.connect(10)
        with zmq.Context() as context, context.socket(zmq.DEALER) as silent:
            silent.linger = 0
            silent.connect(server.address)
            silent.send(encode(Hello(PROTOCOL_VERSION, "1", "silent")))
            wait_for(lambda: len(server._sessions) == 2)
            wait_for(lambda: len(server._sessions) == 1)
        time.sleep(HEARTBEAT_EVERY)
        assert [session.hello_name for session in server._sessions] == ["alive"]


def test_two_servers_on_one_state_folder(make_plate, tmp_path):
    state = tmp_path / "state"
    with Serving(state) as first, SolverClient(first.address) as client:
        client.connect(10)
        job = client.submit(client.upload(make_plate()), SolveSettings()).job
        with pytest.raises(AssertionError, match="Another solver server uses the state folder"):
            Serving(state)
        assert client.wait(job, timeout=15).state == "done"
    # A killed one holds nothing.
    Serving(state).kill()
    Serving(state).stop()


def overwritten(data: bytes) -> bytes:
    return b"this is no database" + data[19:]


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zeroed_inside(data: bytes) -> bytes:
    return data[:4096] + bytes(len(data) - 8192) + data[-4096:]


def emptied(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [overwritten, truncated, zeroed_inside, emptied])
def test_damaged_index_is_moved_aside_and_no_job_is_lost(make_plate, tmp_path, damage):
    state, note = tmp_path / "state", tmp_path / "pids"
    server = Serving(state)
    with SolverClient(server.address) as client:
        client.connect(10)
        done = client.submit(client.upload(make_plate()), SolveSettings(), name="done").job
        client.wait(done, timeout=15)
        failed = client.submit(client.upload(make_plate("fail")), SolveSettings()).job
        client.wait(failed, timeout=15)
        once = client.upload(make_plate(f"once flow {note}", frames=2))
        running = client.submit(once, SolveSettings()).job
        pids = pids_in(note)
        queued = client.submit(client.upload(make_plate(frames=4)), SolveSettings()).job
        before = {info.job: info for info in client.list_jobs()}
        server.stop()
    wait_until_gone(pids, timeout=2)
    index = state / INDEX_NAME
    index.write_bytes(damage(index.read_bytes()))

    with Serving(state) as server, SolverClient(server.address) as client:
        client.connect(10)
        for job in (running, queued):
            assert client.wait(job, timeout=20).state == "done"
        after = {info.job: info for info in client.list_jobs()}
        assert after.keys() == before.keys()
        assert after[done] == before[done] and after[failed] == before[failed]
        result = client.attach(done)
        assert len(client.fetch(done, result.artefacts, tmp_path / "out")) == 5
        if damage is not emptied:
            assert "is damaged" in server.said and "damaged-1" in server.said
            assert index.with_name(f"{INDEX_NAME}.damaged-1").stat().st_size > 0
        # The uploads are still there, too.
        sent = []
        client.upload(make_plate(), lambda done, total: sent.append(done))
        assert len(sent) == 1


def test_folders_without_a_job_go_and_unreadable_ones_are_kept(tmp_path):
    JobStore(tmp_path).close()
    jobs = tmp_path / "jobs"
    for name in ("killed while its plate was placed", "unreadable record"):
        (jobs / name / "plate").mkdir(parents=True)
    (jobs / "unreadable record" / "job.json").write_text("{")
    JobStore(tmp_path).close()
    assert [path.name for path in jobs.iterdir()] == ["unreadable record"]


# A server whose wall clock is as many seconds off as a file says.
JUMPING_CLOCK = """
import sys, time
from pathlib import Path
offset, real = Path(sys.argv.pop(1)), time.time
time.time = lambda: real() + float(offset.read_text())
from megasam_server.cli import main
main()
"""
YEAR = 365 * 24 * 3600


@pytest.mark.slow
def test_jumps_of_the_clock_end_no_job_and_remove_nothing(make_plate, tmp_path):
    state, note, offset = tmp_path / "state", tmp_path / "pids", tmp_path / "offset"
    offset.write_text("0")
    script = tmp_path / "jumping_clock.py"
    script.write_text(JUMPING_CLOCK)
    program = [sys.executable, str(script), str(offset)]
    limits = ("--keep-days", "14", "--job-timeout", "1")
    with (
        Serving(state, *limits, program=program) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        done = client.submit(client.upload(make_plate()), SolveSettings()).job
        client.wait(done, timeout=15)
        running = client.submit(client.upload(make_plate("busy 4")), SolveSettings()).job
        queued = client.submit(client.upload(make_plate(f"hang {note}")), SolveSettings()).job
        events = []
        waiting = client.in_background(client.wait, running, events.append)
        for years in (10, -20, 0):
            offset.write_text(str(years * YEAR))
            time.sleep(0.5)
            assert client.connected
            gc(state)
        assert waiting.result(15).state == "done"
        elapsed = [event.elapsed for event in events if isinstance(event, Progress)]
        assert elapsed == sorted(elapsed) and elapsed[-1] < 30
        pids_in(note)
        client.cancel(queued)
        assert {info.job for info in client.list_jobs()} == {done, running, queued}
        assert len(client.fetch(done, client.attach(done).artefacts, tmp_path / "out")) == 5
    offset.write_text(str(10 * YEAR))
    with (
        Serving(state, *limits, program=program) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        gc(state)
        assert {info.job for info in client.list_jobs()} == {done, running, queued}


def test_server_removes_what_is_old_by_itself(make_plate, tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "_FIRST_COLLECT_AFTER", 0.5)
    monkeypatch.setattr(housekeeping, "_COLLECT_EVERY", 0.3)
    options = ServerOptions(
        tmp_path / "state",
        "tcp://127.0.0.1:0",
        storage=StorageLimits(ttl=1.0),
        job_function=JOB_FUNCTION,
    )
    with running(options) as server, SolverClient(server.address) as client:
        client.connect(10)
        client.wait(client.submit(client.upload(make_plate()), SolveSettings()).job, timeout=15)
        wait_for(lambda: not client.list_jobs())
        wait_for(lambda: not files_below(tmp_path / "state" / "blobs"))
