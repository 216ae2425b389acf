"""A real private server per test, with a job function of the tests, and clients for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from megasam_server.service.private import PrivateServer
from megasam_shared.client import SolverClient
from megasam_shared.settings import SolveSettings

JOB_FUNCTION = "tests.server.service.job_functions:run_job"
REPOSITORY = Path(__file__).parents[3]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def importable_job_functions(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No process that a test started survives it."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    started = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    _, alive = psutil.wait_procs(started, timeout=3)
    assert not alive


@pytest.fixture
def server() -> Iterator[PrivateServer]:
    with PrivateServer(JOB_FUNCTION) as running:
        yield running


@pytest.fixture
def client(server) -> Iterator[SolverClient]:
    with SolverClient(server.address, name="test") as connected:
        connected.connect(10)
        yield connected


@pytest.fixture
def make_plate(tmp_path):
    """Write a plate whose first frame tells the job function what to do."""

    def make(action: str = "solve", frames: int = 3, bytes_each: int = 1000) -> list[Path]:
        folder = tmp_path / f"plate_{action.split()[0]}_{frames}_{bytes_each}"
        folder.mkdir(exist_ok=True)
        files = []
        for index in range(frames):
            files.append(folder / f"plate.{1001 + index}.exr")
            text = f"{action if index == 0 else index}\0".encode()
            files[-1].write_bytes(text.ljust(bytes_each, b"%d" % (index % 10)))
        return files

    return make


@pytest.fixture
def hanging_job(client, make_plate, tmp_path):
    """Submit a job that never ends by itself; returns (job id, pids of worker and its child)."""

    def submit() -> tuple[str, list[int]]:
        note = tmp_path / f"pids_{time.monotonic_ns()}"
        plate = client.upload(make_plate(f"hang {note}", frames=1))
        job = client.submit(plate, SolveSettings()).job
        return job, pids_in(note)

    return submit


def random_file(path: Path, mebibytes: int) -> Path:
    path.write_bytes(os.urandom(mebibytes * MIB))
    return path


def pids_in(note: Path, timeout: float = 15) -> list[int]:
    """What a hanging job wrote down: its worker and the worker's child."""
    deadline = time.monotonic() + timeout
    while not (note.exists() and len(note.read_text().split()) == 2):
        assert time.monotonic() < deadline, "the job was not started"
        time.sleep(0.02)
    return [int(pid) for pid in note.read_text().split()]


def wait_until_gone(pids: list[int], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"processes {alive} are alive"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
