"""Whose turn it is, and on which device."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from megasam_server.service.devices import Device, choose_devices
from megasam_server.service.jobs import JobStore
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import DEFAULT_PRIORITY, Artefact, Result
from megasam_shared.settings import SolveSettings

from tests.server.service.curve_server import CurveStudio
from tests.server.service.serving import Serving, wait_for


@pytest.fixture
def jobs(tmp_path):
    store = JobStore(tmp_path / "state")
    yield store
    store.close()


def add(jobs: JobStore, owner: str, name: str = "", priority: int = 50) -> str:
    job = jobs.new_id()
    jobs.add(job, owner, secrets.token_hex(16), name, Path("plate.mov"), None, {}, priority)
    return job


def drain(jobs: JobStore) -> list[str]:
    """Names of the jobs in the order in which one worker would take them."""
    order = []
    while (record := jobs.next_queued()) is not None:
        jobs.start(record.id)
        order.append(record.name)
    return order


def test_owners_take_turns_and_nobody_waits_for_all_of_anothers_jobs(jobs):
    for number in range(3):
        add(jobs, "anna", f"a{number}")
    for number in range(2):
        add(jobs, "ben", f"b{number}")
    add(jobs, "cleo", "c0")
    announced = sorted(jobs.newest(), key=lambda info: info.position)
    order = drain(jobs)
    assert order == ["a0", "b0", "c0", "a1", "b1", "a2"]
    # What clients were told is what happened.
    assert [info.name for info in announced] == order


def test_who_was_served_longest_ago_has_the_next_turn(tmp_path):
    jobs = JobStore(tmp_path / "state")
    add(jobs, "anna", "a0")
    add(jobs, "ben", "b0")
    assert drain(jobs) == ["a0", "b0"]
    add(jobs, "ben", "b1")
    add(jobs, "anna", "a1")
    jobs.close()
    # Also when another server looks after them.
    again = JobStore(tmp_path / "state")
    assert drain(again) == ["a1", "b1"]
    again.close()


def test_priority_goes_before_turns_and_turns_hold_within_it(jobs):
    add(jobs, "anna", "low", priority=10)
    for number in range(2):
        add(jobs, "ben", f"b{number}", priority=90)
    add(jobs, "anna", "urgent", priority=90)
    add(jobs, "cleo", "normal")
    assert drain(jobs) == ["b0", "urgent", "b1", "normal", "low"]


def test_job_that_is_queued_again_keeps_its_place(jobs):
    first, _ = add(jobs, "anna", "a0"), add(jobs, "anna", "a1")
    jobs.start(first)
    jobs.retry(first)
    assert jobs.get(first).attempts == 1
    assert drain(jobs) == ["a0", "a1"]
    assert jobs.get(first).attempts == 2
    jobs.put_back(first)
    assert jobs.get(first).attempts == 1


def test_full_queue_is_refused_with_a_reason(jobs):
    add(jobs, "anna")
    add(jobs, "anna")
    add(jobs, "ben")
    jobs.check_room_in_queue("ben", limit=4, limit_of_owner=2)
    for limits in [(3, None), (4, 2)]:
        with pytest.raises(MegasamError) as caught:
            jobs.check_room_in_queue("anna", *limits)
        assert caught.value.code == "queue_full" and caught.value.hint


def test_server_with_a_full_queue_says_so_and_takes_jobs_again_later(make_plate, tmp_path):
    note, config = tmp_path / "pids", tmp_path / "server.toml"
    config.write_text("[queue]\nlimit = 2\nmax_priority = 80\n")
    with (
        Serving(tmp_path / "state", "--config", str(config)) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        hanging = client.submit(client.upload(make_plate(f"hang {note}")), SolveSettings()).job
        wait_for(note.exists)
        plate = client.upload(make_plate())
        waiting = [client.submit(plate, SolveSettings()) for _ in range(2)]
        assert [info.position for info in waiting] == [0, 1]
        with pytest.raises(MegasamError) as caught:
            client.submit(plate, SolveSettings())
        assert caught.value.code == "queue_full" and "2 jobs" in caught.value.message
        client.cancel(waiting[0].job)
        last = client.submit(plate, SolveSettings(), priority=80)
        assert (last.position, last.priority) == (0, 80)
        client.cancel(hanging)
        assert client.wait(last.job, timeout=15).state == "done"


def test_no_client_puts_itself_before_the_others(tmp_path, make_plate):
    with CurveStudio(tmp_path) as studio:
        client = studio.client(studio.keys("anna"))
        plate = client.upload(make_plate())
        with pytest.raises(MegasamError) as caught:
            client.submit(plate, SolveSettings(), priority=DEFAULT_PRIORITY + 1)
        assert caught.value.code == "priority_too_high" and "max_priority" in caught.value.hint
        assert client.list_jobs() == []
        assert client.submit(plate, SolveSettings(), priority=0).priority == 0


FAKE_NVIDIA_SMI = """#!/bin/sh
echo "0, GPU-aaaa, NVIDIA Test 1"
echo "1, GPU-bbbb, NVIDIA Test 2"
"""


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """A driver that lists two GPUs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(FAKE_NVIDIA_SMI)
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder / "nvidia-smi"


def test_devices_are_chosen_and_checked(two_gpus, monkeypatch):
    assert choose_devices(None) == [Device("0"), Device("1")]
    assert choose_devices(["GPU-bbbb"]) == [Device("GPU-bbbb")]
    assert choose_devices(["cpu"]) == [Device("cpu")]
    for wanted in (["2"], ["0", "0"], ["0", "GPU-aaaa"], [""], ["0", "cpu"]):
        with pytest.raises(MegasamError) as caught:
            choose_devices(wanted)
        assert caught.value.code == "gpu_unknown" and "1 (NVIDIA Test 2)" in caught.value.message
    # Who starts the server may leave it some of them.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert choose_devices(None) == [Device("1")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_devices(None) == [Device("cpu")]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    two_gpus.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert choose_devices(None) == [Device("cpu")]
    two_gpus.unlink()


def test_each_gpu_has_a_worker_that_sees_only_that_gpu(two_gpus, make_plate, tmp_path):
    state = tmp_path / "state"
    notes = [tmp_path / "first", tmp_path / "second"]
    with (
        Serving(state, "--gpus", "0,1") as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        # Two that run at the same time, and hang until both do.
        hanging = []
        for note in notes:
            plate = make_plate(f"once plate {note}", frames=len(hanging) + 1)
            hanging.append(client.submit(client.upload(plate), SolveSettings()).job)
        for note in notes:
            wait_for(note.exists)
        waiting = client.submit(client.upload(make_plate()), SolveSettings())
        assert waiting.state == "queued"
        for note in notes:
            os.kill(int(note.read_text().split()[0]), 9)
        results = [client.wait(job, timeout=20) for job in [*hanging, waiting.job]]
        assert all(result.state == "done" for result in results)
        assert {result.result["gpu"] for result in results} == {"0", "1"}
    with Serving(state, "--gpus", "cpu") as server, SolverClient(server.address) as client:
        client.connect(10)
        done = client.wait(
            client.submit(client.upload(make_plate()), SolveSettings()).job, None, 20
        )
        assert done.result["gpu"] == "-1"


def test_end_of_a_job_is_recorded_once_with_its_size(jobs):
    job = add(jobs, "anna")
    jobs.start(job)
    jobs.finish(
        Result(0, job, "done", {}, [Artefact("a", 7, "0" * 64), Artefact("b", 5, "1" * 64)])
    )
    kept = jobs.result_of(job, 3)
    assert (kept.request, kept.state, len(kept.artefacts)) == (3, "done", 2)
    assert jobs.next_queued() is None and jobs.info(job).finished is not None
