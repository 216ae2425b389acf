"""Workers that die, hang or are deaf: the job is tried once more or ends, and nothing stays."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from megasam_server.pipeline.stage_cache import KEPT_STAGES
from megasam_shared.client import SolverClient
from megasam_shared.protocol import JobChanged, Progress
from megasam_shared.settings import SolveSettings
from megasam_shared.stages import STAGES

from tests.server.service.conftest import is_alive, pids_in, wait_until_gone
from tests.server.service.serving import Serving, files_below

STAGES_THAT_RUN = [stage.key for stage in STAGES if stage.key != "metric_depth"]


@pytest.mark.parametrize("stage", STAGES_THAT_RUN)
def test_worker_killed_in_any_stage_is_replaced_and_the_job_is_done(
    server, client, make_plate, tmp_path, stage
):
    note = tmp_path / "pids"
    job = client.submit(client.upload(make_plate(f"once {stage} {note}")), SolveSettings()).job
    pids = pids_in(note)
    client.poll()
    os.kill(pids[0], signal.SIGKILL)
    events = []
    result = client.wait(job, events.append, timeout=15)
    assert result.state == "done" and len(result.artefacts) == 5
    wait_until_gone(pids, timeout=2)
    changes = [event.job for event in client.poll() if isinstance(event, JobChanged)]
    assert [(job.state, job.attempts) for job in changes] == [
        ("queued", 1),
        ("running", 2),
        ("done", 2),
    ]
    folder = server._state / "jobs" / job
    left = {"job.json", "worker.log", "result.msgpack"}
    deadline = time.monotonic() + 5
    while not all(name in left or name.startswith("results/") for name in files_below(folder)):
        assert time.monotonic() < deadline, files_below(folder)
        time.sleep(0.05)


def test_job_that_never_ends_is_ended_and_the_next_one_runs(make_plate, tmp_path):
    note = tmp_path / "pids"
    with (
        Serving(tmp_path / "state", "--job-timeout", "0.03") as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        job = client.submit(client.upload(make_plate(f"stubborn {note}")), SolveSettings()).job
        following = client.submit(client.upload(make_plate()), SolveSettings()).job
        result = client.wait(job, timeout=15)
        assert (result.state, result.error.code) == ("failed", "job_timeout")
        assert "1.8 s" in result.error.message and result.error.hint
        wait_until_gone(pids_in(note), timeout=2)
        assert client.wait(following, timeout=15).state == "done"
        # Ended on purpose: that is not tried again.
        assert client.attach(job).state == "failed"
        assert {info.job: info.attempts for info in client.list_jobs()}[job] == 1


def test_deaf_worker_is_cancelled_within_two_seconds(client, make_plate, tmp_path):
    note = tmp_path / "pids"
    job = client.submit(client.upload(make_plate(f"stubborn {note}")), SolveSettings()).job
    pids = pids_in(note)
    assert client.cancel(job).state == "cancelled"
    wait_until_gone(pids, timeout=2)


def test_deaf_worker_of_a_killed_server_is_ended_by_the_next_one(make_plate, tmp_path):
    note = tmp_path / "pids"
    server = Serving(tmp_path / "state")
    with SolverClient(server.address) as client:
        client.connect(10)
        job = client.submit(client.upload(make_plate(f"stubborn {note}")), SolveSettings()).job
        pids = pids_in(note)
        server.kill()
    assert is_alive(pids[0])  # it does not hear that its server is gone
    note.unlink()
    with Serving(tmp_path / "state") as server, SolverClient(server.address) as client:
        wait_until_gone(pids, timeout=5)
        client.connect(10)
        again = pids_in(note)
        assert client.attach(job).attempts == 2
        client.cancel(job)
        wait_until_gone(again, timeout=2)
    assert not list((tmp_path / "state" / "workers").iterdir())


REAL_STAGES = ["plate", "tracking", "flow", "video_depth", "conversion"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", REAL_STAGES)
def test_real_solve_goes_on_where_its_worker_was_killed(room_clip, tmp_path, stage):
    """What was finished before is used again by the second attempt."""
    with (
        Serving(tmp_path / "state", job_function=None) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        settings = SolveSettings(engine="classical", quality_preset="fast", last_frame=12)
        job = client.submit(client.upload([room_clip.movie]), settings).job
        deadline = time.monotonic() + 300
        decoding = tmp_path / "state" / "jobs" / job / "work" / "frames.rgb.part"
        while not (
            # Which is too short to be seen in the reports.
            decoding.exists()
            if stage == "plate"
            else any(isinstance(e, Progress) and e.stage == stage for e in client.poll())
        ):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        (worker,) = [int(path.name) for path in (tmp_path / "state" / "workers").iterdir()]
        os.kill(worker, signal.SIGKILL)
        wait_until_gone([worker], 5)
        kept = last_uses(tmp_path / "state")
        result = client.wait(job, timeout=600)
        assert result.state == "done", result.error
        assert client.list_jobs()[0].attempts == 2
        before = set(REAL_STAGES[: REAL_STAGES.index(stage)])
        assert kept.keys() >= before & KEPT_STAGES
        again = last_uses(tmp_path / "state")
        assert all(again[of] > used for of, used in kept.items()), (kept, again)
        if "tracking" in kept:
            assert result.result["timings"]["seconds"]["tracking"] < 1.0


def last_uses(state: Path) -> dict[str, int]:
    """When the output of each stage was used last, nanoseconds."""
    marks = (state / "cache").glob("*/complete.json")
    return {mark.parent.name.partition("-")[0]: mark.stat().st_mtime_ns for mark in marks}
