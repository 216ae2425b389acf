"""SIGTERM to a server: what runs, what waits, what clients hear, and what the next server does."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import Error, JobChanged, Progress
from megasam_shared.settings import SolveSettings

from tests.server.cli.serve_process import MEGASAM, StagedJob, environment, serving

needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
pytestmark = needs_signals


def test_job_in_a_kept_stage_is_queued_again_at_its_end_and_the_next_server_goes_on(tmp_path):
    with serving(tmp_path) as server, SolverClient(server.address, name="test") as client:
        client.connect(10)
        job = StagedJob(tmp_path, client, "running")
        waiting = StagedJob(tmp_path, client, "waiting")
        # The server has to know: a job that has not begun is queued again at once.
        while not any(isinstance(e, Progress) and e.stage == "plate" for e in client.poll()):
            time.sleep(0.02)
        server.signal(signal.SIGTERM)
        heard = []
        while not any(isinstance(event, Error) for event in heard):
            heard += client.poll()
            time.sleep(0.02)
        told = next(event for event in heard if isinstance(event, Error))
        assert told.code == "server_draining" and "stop" in told.message
        status = client.server_status()
        assert status.draining and (status.running, status.queued) == (1, 1)
        with pytest.raises(MegasamError) as refused:
            client.upload([tmp_path / "running.mov"])
        assert refused.value.code == "server_draining"
        time.sleep(0.5)  # not before its stage is over
        assert client.attach(job.id).state == "running"
        job.end("plate")
        assert server.wait() == 0
        states = [e.job.state for e in client.poll() if isinstance(e, JobChanged)]
        assert states[-1] == "queued"
    assert "is queued again, after 'plate'" in server.log
    job.end()
    waiting.end()
    with serving(tmp_path) as server, SolverClient(server.address, name="test") as client:
        client.connect(10)
        for each in (job, waiting):
            assert client.wait(each.id, timeout=15).state == "done"
            (info,) = [info for info in client.list_jobs() if info.job == each.id]
            assert info.attempts == 1
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_job_in_a_stage_that_is_not_kept_ends_and_its_results_are_fetched(tmp_path):
    with serving(tmp_path) as server, SolverClient(server.address, name="test") as client:
        client.connect(10)
        job = StagedJob(tmp_path, client, "running")
        job.end("plate", "tracking")
        job.wait_until_in("flow")
        waited = client.in_background(client.wait, job.id)
        server.signal(signal.SIGTERM)
        time.sleep(0.3)
        job.end()
        result = waited.result(10)
        assert result.state == "done"
        client.fetch(job.id, result.artefacts, tmp_path / "out")
        assert (tmp_path / "out" / "camera_extrinsics.json").read_text() == "{}"
        assert server.wait() == 0


def test_second_signal_stops_at_once_and_so_does_the_limit(tmp_path):
    with serving(tmp_path) as server, SolverClient(server.address, name="test") as client:
        client.connect(10)
        job = StagedJob(tmp_path, client, "running")
        job.end("plate", "tracking")
        job.wait_until_in("flow")
        server.signal(signal.SIGTERM)
        while not client.server_status().draining:
            time.sleep(0.02)
        asked = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - asked < 2
    job.forget_begun()
    with serving(tmp_path, "--drain", "0.02") as server:
        job.wait_until_in("flow")
        asked = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert 1.0 < time.monotonic() - asked < 4
    job.end()
    with serving(tmp_path) as server, SolverClient(server.address, name="test") as client:
        client.connect(10)
        assert client.wait(job.id, timeout=15).state == "done"
        assert client.submit(client.upload([tmp_path / "running.mov"]), SolveSettings()).job
        server.signal(signal.SIGINT)
        assert server.wait() == 0


def test_solve_waits_for_the_next_server(tmp_path):
    """One command, from before the drain to results from the server after it."""
    with serving(tmp_path) as server, SolverClient(server.address, name="test") as client:
        client.connect(10)
        job = StagedJob(tmp_path, client, "first")
        client.cancel(job.id)
        address = server.address
        solve = subprocess.Popen(
            [*MEGASAM, "solve", "first.mov", "--out", "out", "--server", address, "--json"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            job.forget_begun()
            job.wait_until_in("plate")
            server.signal(signal.SIGTERM)
            while not client.server_status().draining:
                time.sleep(0.02)
            job.end("plate")
            assert server.wait() == 0
            job.end()
            with serving(tmp_path, "--bind", address) as server:
                out, _ = solve.communicate(timeout=30)
                server.signal(signal.SIGINT)
                assert server.wait() == 0
        finally:
            solve.kill()
            solve.communicate()
    events = [json.loads(line) for line in out.splitlines()]
    (notice,) = [event for event in events if event["event"] == "notice"]
    assert notice["code"] == "server_draining"
    states = [event["state"] for event in events if event["event"] == "job"]
    assert states[:3] == ["queued", "running", "queued"]
    assert solve.returncode == 0 and events[-1]["event"] == "result"
    assert (tmp_path / "out" / "camera_extrinsics.json").is_file()
