"""Workers that keep networks for the next job: when they do, and that they are as good as new."""

from __future__ import annotations

import resource
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from megasam_server.service.options import WarmOptions
from megasam_server.service.private import PrivateServer
from megasam_shared.client import SolverClient
from megasam_shared.protocol import Result
from megasam_shared.settings import SolveSettings

from tests.server.service.conftest import is_alive, wait_until_gone
from tests.server.service.curve_server import CurveStudio
from tests.server.service.serving import Serving, wait_for

WARM_JOB = "tests.server.service.warm_job:run_job"


needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="a network of torch's")


class Shots:
    """Submits jobs of :mod:`tests.server.service.warm_job`."""

    def __init__(self, client: SolverClient, folder: Path) -> None:
        self._client = client
        self._folder = folder

    @property
    def loads(self) -> list[int]:
        """Processes that loaded the network, in order."""
        return [int(line) for line in (self._folder / "loads").read_text().split()]

    def submit(self, action: str, network: str = "light") -> str:
        plate = self._folder / f"{action}.mov"
        plate.write_text(f"{action} {self._folder} {network}")
        return self._client.submit(self._client.upload([plate]), SolveSettings()).job

    def run(self, action: str = "solve", network: str = "light") -> Result:
        return self._client.wait(self.submit(action, network), timeout=30)

    def pid(self, action: str = "solve") -> int:
        """The process that solved a job."""
        result = self.run(action)
        assert result.state == "done", result.error
        return result.result["pid"]


@pytest.fixture
def shots(tmp_path):
    """On a server with the usual settings."""
    with (
        Serving(tmp_path / "state", "--gpus", "cpu", job_function=WARM_JOB) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        yield Shots(client, tmp_path)


def log_of(tmp_path: Path, job: str) -> str:
    return (tmp_path / "state" / "jobs" / job / "worker.log").read_text()


@needs_torch
def test_the_next_job_finds_the_networks_and_nothing_else_of_the_last(shots, tmp_path):
    first = shots.run("change", "torch")
    assert first.state == "done" and first.result["leftover"] is None
    wait_for(lambda: shots._client.server_status().workers == "the CPU (warm)")
    second = shots.run("solve", "torch")
    assert second.state == "done"
    assert second.result["pid"] == first.result["pid"]
    assert shots.loads == [first.result["pid"]]
    for same in ("answer", "leftover", "files", "handlers"):
        assert second.result[same] == first.result[same], same
    assert second.result["files"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert second.result["folder"].endswith(f"{second.job}/work")
    # Each log has all of its own job and nothing of the other.
    logs = [log_of(tmp_path, result.job) for result in (first, second)]
    assert "printed for change" in logs[0] and "logged for change" in logs[0]
    assert logs[0].endswith("no end of line")
    assert "printed for solve" in logs[1] and "logged for solve" in logs[1]
    assert "solve" not in logs[0] and "change" not in logs[1]
    wait_for(lambda: not (tmp_path / "state" / "jobs" / second.job / "work").exists())


def test_only_a_process_that_is_none_the_worse_goes_on(shots, tmp_path):
    pid = shots.pid()
    assert shots.run("fail").error.code == "plate_black"
    assert shots.pid("classical") == pid, "the networks of another job wait all the same"
    for action, code in (("crash", "internal_error"), ("full", "out_of_gpu_memory")):
        assert shots.run(action).error.code == code
        wait_until_gone([pid], timeout=5)
        pid = shots.pid()
    for action in ("child", "thread", "file", "grow"):
        assert shots.pid(action) == pid
        wait_until_gone([pid], timeout=5)
        assert shots.pid() != pid
        pid = shots.pid()
    # Its second attempt was made by a new process, which stays.
    after = shots.pid("die")
    assert after != pid and not is_alive(pid)
    assert shots.pid() == after
    hanging = shots.submit("hang")
    wait_for((tmp_path / "hangs").exists)
    shots._client.cancel(hanging)
    wait_until_gone([after], timeout=2)
    assert shots.pid() != after


def test_a_warm_worker_gives_the_device_back(tmp_path):
    config = tmp_path / "server.toml"
    config.write_text("[server]\nkeep_warm_minutes = 0.02\nwarm_jobs = 2\n")
    options = ("--gpus", "cpu", "--config", str(config))
    with (
        Serving(tmp_path / "state", *options, job_function=WARM_JOB) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        shots = Shots(client, tmp_path)
        jobs = [shots.submit("solve") for _ in range(3)]
        pids = [client.wait(job, timeout=30).result["pid"] for job in jobs]
        assert pids[0] == pids[1] != pids[2]
        wait_until_gone(pids[:1], timeout=2)
        wait_until_gone(pids[2:], timeout=6)
        wait_for(lambda: client.server_status().workers == "the CPU")


def test_another_clients_job_has_a_new_process(tmp_path):
    studio = CurveStudio(tmp_path, gpus=["cpu"], warm=WarmOptions())
    studio.options = replace(studio.options, job_function=WARM_JOB)
    with studio:
        anna, ben = (Shots(studio.client(studio.keys(n)), tmp_path) for n in ("anna", "ben"))
        hers = anna.pid()
        assert anna.pid() == hers
        his = ben.pid()
        assert his != hers
        wait_until_gone([hers], timeout=2)
        assert ben.pid() == his


def test_classical_jobs_and_a_server_of_ones_own_have_new_processes(shots, tmp_path):
    assert shots.pid("classical") != shots.pid("classical")
    with PrivateServer(WARM_JOB) as server, SolverClient(server.address) as client:
        client.connect(10)
        own = Shots(client, tmp_path)
        assert own.pid() != own.pid()
        assert client.server_status().workers == "the CPU"
