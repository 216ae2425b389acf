"""``megasam serve --executor ray`` on a real Ray cluster of two nodes of this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from megasam_shared.client import SolverClient
from megasam_shared.protocol import JobChanged, Progress

from tests.server.cli.serve_process import StagedJob, megasam, serving
from tests.server.service.conftest import REPOSITORY, is_alive

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def gpus() -> int:
    """Of each node, as Ray counts them."""
    return 0


@pytest.fixture
def cluster(monkeypatch, gpus):
    from ray.cluster_utils import Cluster

    # What runs on the nodes finds the tests' job function.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("NODE_SECRET", "s3cret")
    node = {"num_cpus": 1 + gpus, "num_gpus": gpus, "object_store_memory": 80 << 20}
    started = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    started.second = started.add_node(**node)
    started.wait_for_nodes()
    yield started
    ray.shutdown()
    started.shutdown()
    shutil.rmtree(Path(tempfile.gettempdir()) / "ray", ignore_errors=True)


@pytest.fixture
def config(cluster, tmp_path):
    path = tmp_path / "server.toml"
    path.write_text(f'[server]\nexecutor = "ray"\n[ray]\naddress = "{cluster.address}"\ncpus = 1\n')
    return str(path)


def where(client: SolverClient, job: StagedJob) -> tuple[str, int]:
    """Ray's name of the node, and the worker's process."""
    (run,) = [run for run in client.server_status().jobs if run.job == job.id]
    node, pid = re.fullmatch(r"node \S+ \((\w+)\) in process (\d+)", run.where).groups()
    return node, int(pid)


def free_cores(cluster) -> float:
    if not ray.is_initialized():
        ray.init(address=cluster.address, log_to_driver=False)
    return ray.available_resources().get("CPU", 0)


def wait_for(condition, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_jobs_run_on_both_nodes_as_they_do_on_one_machine(tmp_path, cluster, config):
    with (
        serving(tmp_path, "--config", config, "--drain", "0") as server,
        SolverClient(server.address, name="test") as client,
    ):
        client.connect(20)
        assert "Ray cluster" in client.server_status().workers
        first, second = (StagedJob(tmp_path, client, name) for name in ("first", "second"))
        third = StagedJob(tmp_path, client, "third")
        for job in (first, second):
            job.wait_until_in("plate", timeout=60)
        (first_node, first_pid), (second_node, second_pid) = (
            where(client, job) for job in (first, second)
        )
        assert first_node != second_node
        status = client.server_status()
        assert (status.running, status.queued) == (2, 1)

        # Progress and results.
        events: list = []
        waited = client.in_background(client.wait, first.id, events.append)
        first.end()
        result = waited.result(30)
        assert result.state == "done"
        environment = result.result["environment"]
        assert environment["CUDA_VISIBLE_DEVICES"] == "-1"
        assert "PATH" in environment and "NODE_SECRET" not in environment
        stages = [event.stage for event in events if isinstance(event, Progress)]
        assert "conversion" in stages
        assert [e.job.state for e in events if isinstance(e, JobChanged)][-1] == "done"
        wait_for(lambda: not is_alive(first_pid), 10)

        # A worker that is killed is replaced once; then its job fails, and only that.
        second.forget_begun()
        os.kill(second_pid, signal.SIGKILL)
        second.wait_until_in("plate", timeout=60)
        info = client.attach(second.id)
        assert (info.state, info.attempts) == ("running", 2)
        os.kill(where(client, second)[1], signal.SIGKILL)
        result = client.wait(second.id, timeout=30)
        assert (result.state, result.error.code) == ("failed", "worker_died")
        assert "SIGKILL" in result.error.message

        # Cancel ends the process at once and frees its room for the next.
        third.wait_until_in("plate", timeout=60)
        _, third_pid = where(client, third)
        assert client.cancel(third.id).state == "cancelled"
        wait_for(lambda: not is_alive(third_pid), 5)
        fourth = StagedJob(tmp_path, client, "fourth")
        fourth.end("plate", "tracking")
        fourth.wait_until_in("flow", timeout=60)
        _, fourth_pid = where(client, fourth)
        server.signal(signal.SIGTERM)
        assert server.wait(40) == 0, server.log
        assert not is_alive(fourth_pid)
    assert f"INFO {first.id} worker: printed by the worker" in server.log
    # Nothing of the cluster is held any more.
    wait_for(lambda: free_cores(cluster) == 2)


def test_lost_node_and_killed_server(tmp_path, cluster, config):
    with serving(tmp_path, "--config", config) as server:
        with SolverClient(server.address, name="test") as client:
            client.connect(20)
            jobs = [StagedJob(tmp_path, client, name) for name in ("first", "second")]
            for job in jobs:
                job.wait_until_in("plate", timeout=60)
            lost_node = cluster.second.node_id[:8]
            (lost,) = [job for job in jobs if where(client, job)[0] == lost_node]
            (other,) = [job for job in jobs if job is not lost]
            _, lost_pid = where(client, lost)
            lost.forget_begun()
            cluster.remove_node(cluster.second, allow_graceful=False)
            wait_for(lambda: not is_alive(lost_pid), 20)
            wait_for(lambda: client.attach(lost.id).state == "queued", 60)
            # It goes on on the other node, when there is room.
            other.end()
            assert client.wait(other.id, timeout=30).state == "done"
            lost.wait_until_in("plate", timeout=60)
            assert client.attach(lost.id).attempts == 2
            _, pid = where(client, lost)
            children = psutil.Process(pid).children(recursive=True)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        wait_for(lambda: not is_alive(pid) and not any(is_alive(c.pid) for c in children), 30)
    wait_for(lambda: free_cores(cluster) == 1)


@pytest.mark.parametrize("gpus", [2])
def test_each_job_gets_a_gpu_of_its_own(tmp_path, cluster, config):
    """Four jobs at once on two nodes with two GPUs each; Ray only counts them here."""
    with (
        serving(tmp_path, "--config", config) as server,
        SolverClient(server.address, name="test") as client,
    ):
        client.connect(20)
        assert "1 GPU" in client.server_status().workers
        jobs = [StagedJob(tmp_path, client, f"sh{number}") for number in range(5)]
        wait_for(lambda: client.server_status().running == 4, 60)
        time.sleep(1)
        status = client.server_status()
        assert (status.running, status.queued, status.gpus) == (4, 1, [])
        nodes = {run.job: run.where.split("(")[1][:8] for run in status.jobs}
        for job in jobs:
            job.end()
        results = {job.id: client.wait(job.id, timeout=60).result for job in jobs}
        taken = {
            (node, results[job]["environment"]["CUDA_VISIBLE_DEVICES"])
            for job, node in nodes.items()
        }
        assert taken == {(node, gpu) for node in nodes.values() for gpu in "01"}
        server.signal(signal.SIGTERM)
        assert server.wait(40) == 0


def test_no_cluster_is_an_error_that_says_so(tmp_path):
    config = tmp_path / "server.toml"
    config.write_text('[ray]\naddress = "127.0.0.1:1"\n')
    ended = megasam(
        tmp_path,
        *("serve", "--config", str(config), "--executor", "ray", "--bind", "127.0.0.1:0"),
        *("--state", str(tmp_path / "state")),
    )
    assert ended.returncode == 2, ended.stderr
    assert "no Ray cluster at '127.0.0.1:1'" in ended.stderr and "ray start" in ended.stderr
