"""Workers that keep networks for the next job: when they do, and that they are as good as new."""

from __future__ import annotations

import json
import queue
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from megasam_server.checkpoints.locate import CHECKPOINTS_VARIABLE
from megasam_server.service.devices import Device
from megasam_server.service.executor import Task
from megasam_server.service.local_workers import LocalWorkers
from megasam_server.service.options import WarmOptions
from megasam_server.service.private import PrivateServer
from megasam_server.service.worker_environment import worker_environment
from megasam_shared.client import SolverClient
from megasam_shared.protocol import Result
from megasam_shared.settings import SolveSettings

from tests.server.service.conftest import REPOSITORY, is_alive, wait_until_gone
from tests.server.service.curve_server import CurveStudio
from tests.server.service.serving import Serving, wait_for

resource = pytest.importorskip("resource", reason="resource limits of POSIX")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
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


@needs_torch
@pytest.mark.slow
def test_the_real_engine_leaves_nothing_behind(room_clip, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(tmp_path / "checkpoints"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from random_checkpoints import random_checkpoint_folder

    facts = random_checkpoint_folder(tmp_path / "checkpoints", ("megasam", "raft_things"))
    (tmp_path / "checkpoints" / "published.json").write_text(json.dumps(facts))
    solver = "tests.server.service.random_solve:run_job"
    with (
        Serving(tmp_path / "state", "--gpus", "cpu", job_function=solver) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        plate = client.upload([room_clip.movie])
        pids = []
        for frames in (4, 5):
            settings = SolveSettings(engine="megasam", tracking_resolution=160, last_frame=frames)
            result = client.wait(client.submit(plate, settings).job, timeout=500)
            assert result.state == "done", result.error
            pids.append(result.result["pid"])
            wait_for(lambda: client.server_status().workers == "the CPU (warm)", what=server.said)
        assert pids[0] == pids[1]


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


class Heard:
    """Keeps what an executor tells, and does what it wants done in its thread."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue = queue.SimpleQueue()
        self.told: list[tuple] = []
        self.executor: LocalWorkers

    def on_room(self) -> None:
        self.told.append(("room",))

    def on_report(self, job: str, report: dict) -> None:
        self.told.append((report["kind"], job))
        if report["kind"] in ("done", "failed"):
            self.executor.stop(job)

    def on_gone(self, job: str, how: str) -> None:
        self.told.append(("gone", job))

    def wait_for(self, *event: str) -> None:
        while event not in self.told:
            self.calls.get(timeout=15)()


@pytest.fixture
def heard(tmp_path):
    """On an executor whose clock stands still until a test moves it."""
    heard, environment = Heard(), worker_environment() | {"PYTHONPATH": str(REPOSITORY)}
    heard.executor = LocalWorkers(
        WARM_JOB, [Device("cpu")], WarmOptions(), environment, tmp_path, heard.calls.put, lambda: 0
    )
    heard.executor.open(heard)
    heard.wait_for("room")
    yield heard
    heard.executor.close()


def task(folder: Path, action: str) -> Task:
    place = folder / action
    for inside in ("work", "results"):
        (place / inside).mkdir(parents=True)
    (place / "plate.mov").write_text(f"{action} {folder} light")
    return Task(
        job=action,
        owner="",
        plate=place / "plate.mov",
        masks=None,
        settings=SolveSettings().to_map(),
        work_dir=place / "work",
        results_dir=place / "results",
        cache_dir=folder / "cache",
        log=place / "worker.log",
    )


def test_a_worker_that_does_not_end_to_clean_up_is_ended(heard, tmp_path):
    heard.executor.start(task(tmp_path, "stick"))
    heard.wait_for("done", "stick")
    assert not heard.executor.has_room()
    heard.executor.tick(19)
    assert heard.calls.empty() and ("gone", "stick") not in heard.told
    heard.executor.tick(21)
    heard.wait_for("gone", "stick")
    heard.told.clear()
    heard.wait_for("room")
    assert heard.executor.has_room() and ("gone", "stick") not in heard.told


def test_a_server_that_stops_holds_no_warm_worker(heard, tmp_path):
    where = heard.executor.start(task(tmp_path, "solve"))
    heard.wait_for("gone", "solve")
    assert heard.executor.title == "the CPU (warm)" and heard.executor.has_room()
    heard.executor.drain()
    wait_until_gone([int(where.split()[-1])], timeout=2)
    heard.told.clear()
    heard.wait_for("room")
    assert not heard.executor.has_room() and heard.told == [("room",)]


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
