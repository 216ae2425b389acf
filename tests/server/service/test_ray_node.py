"""What a Ray cluster runs on its nodes, without the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from megasam_server.service.executor import Task
from megasam_server.service.ray_node import NodeWorker
from megasam_shared.settings import SolveSettings

from tests.server.service.conftest import JOB_FUNCTION


@pytest.fixture
def task(tmp_path, make_plate) -> Task:
    for name in ("work", "results"):
        (tmp_path / name).mkdir()
    return Task(
        job="a" * 32,
        owner="",
        plate=make_plate("solve")[0].parent,
        masks=None,
        settings=SolveSettings().to_map(),
        work_dir=tmp_path / "work",
        results_dir=tmp_path / "results",
        cache_dir=tmp_path / "cache",
        log=tmp_path / "worker.log",
    )


def node_worker(sign: Path) -> NodeWorker:
    environment = {"MEGASAM_MEDIA_ROOTS": str(sign.parent.resolve())}
    return NodeWorker(JOB_FUNCTION, environment, [], "n0de", str(sign))


def test_reports_are_those_of_the_worker_and_how_it_ended(tmp_path, task):
    (tmp_path / "sign").touch()
    worker = node_worker(tmp_path / "sign")
    reports = worker.reports()
    ready = next(reports)
    assert ready["kind"] == "ready" and "(n0de) in process" in ready["where"]
    worker.solve(task.to_map())
    kinds = []
    for report in reports:
        kinds.append(report["kind"])
        if report["kind"] in ("done", "failed"):
            worker.stop()
            last = report
    assert last["kind"] == "done", last
    assert kinds[-2:] == ["done", "gone"] and {"progress", "skip"} <= set(kinds)


def test_node_without_the_state_folder_says_so_and_starts_nothing(tmp_path):
    (said,) = node_worker(tmp_path / "none").reports()
    assert said["kind"] == "unable"
    assert "(n0de)" in said["why"] and str(tmp_path / "none") in said["why"]
