"""The engine megasam with nothing downloaded: which weights it takes, and what the artist reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from megasam_server.checkpoints.locate import (  # noqa: E402
    BUILT_IN_VARIABLE,
    CHECKPOINTS_VARIABLE,
)
from megasam_server.export.result_folder import ResultFolder  # noqa: E402
from megasam_server.pipeline import engines  # noqa: E402
from megasam_server.pipeline.job import SolveJob  # noqa: E402
from megasam_server.pipeline.networks import CheckpointNetworks  # noqa: E402
from megasam_server.pipeline.progress import SilentProgress  # noqa: E402
from megasam_server.pipeline.run import run_job  # noqa: E402
from megasam_shared.settings import SolveSettings  # noqa: E402

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OWN = "built-in weights for camera tracking and optical flow"


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory) -> Path:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from random_checkpoints import random_built_in_folder
    finally:
        sys.path.remove(str(BENCHMARKS))
    folder = tmp_path_factory.mktemp("random weights")
    random_built_in_folder(folder)
    return folder


@pytest.fixture(autouse=True)
def only_built_in(random_weights, tmp_path, monkeypatch) -> None:
    """No checkpoints, random weights in place of the package's, caches of the test's own."""
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(tmp_path / "none"))
    monkeypatch.setenv(BUILT_IN_VARIABLE, str(random_weights))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_asked_for_the_engine_runs_with_them_and_says_so(tmp_path):
    choice = engines.choose_engine(SolveSettings(engine="megasam", commercial_only=True))
    assert (choice.engine, choice.source) == ("megasam", "MegaSAM")
    assert choice.weights_in_words == OWN
    assert choice.licences == [("Built-in tracker", "Apache-2.0"), ("Built-in RAFT", "Apache-2.0")]
    notice, without_depth = choice.notices
    assert notice.code == "built_in_weights"
    assert "Built-in tracker and Built-in RAFT" in notice.message
    assert f"No checkpoint for camera tracking in {tmp_path / 'none'}" in notice.message
    assert "Official checkpoints take their place" in notice.hint
    assert without_depth.code == "missing_depth_checkpoints"


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_takes_them_only_as_the_policy_says_and_only_on_a_gpu(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(engines, "AUTO_TAKES_BUILT_IN", {"tracking": True, "flow": False})
    auto = engines.choose_engine(SolveSettings(engine="auto"))
    assert (auto.engine, auto.weights_in_words) == ("classical", "")
    assert auto.status == "⚠ Missing checkpoints: solved with the classical engine"
    (notice,) = auto.notices
    assert "the classical engine solves better than they do" in notice.message
    assert "choose the engine megasam" in notice.hint

    monkeypatch.setattr(engines, "AUTO_TAKES_BUILT_IN", {"tracking": True, "flow": True})
    auto = engines.choose_engine(SolveSettings(engine="auto"))
    assert auto.engine == ("megasam" if gpu else "classical")
    assert auto.notices[0].code == ("built_in_weights" if gpu else "no_gpu")


def test_their_networks_are_loaded_in_the_precision_of_the_device():
    choice = engines.choose_engine(SolveSettings(engine="megasam"))
    networks = CheckpointNetworks(choice.selection, commercial_only=True)
    for stage in ("tracking", "flow"):
        with networks.borrow(stage) as network:
            assert {p.dtype for p in network.parameters()} == {networks.precision}
            assert all(torch.isfinite(p).all() for p in network.parameters())
    assert networks.identity("tracking") != networks.identity("flow")


@pytest.mark.slow
def test_a_whole_job_names_the_weights_in_all_that_it_writes(room_clip, tmp_path):
    """Random weights see nothing: what counts is that all of it runs, and that nobody is misled."""
    settings = SolveSettings(
        engine="megasam",
        quality_preset="fast",
        tracking_resolution=160,
        last_frame=3,
        focal_length_px=430.0,
    )
    job = SolveJob(room_clip.movie, None, settings, tmp_path / "work", tmp_path / "results")
    job.work_dir.mkdir()
    result = run_job(job, SilentProgress())
    folder = ResultFolder(job.results_dir)
    quality = json.loads(folder.quality.read_text("utf-8"))
    assert result["extrinsics"]["source"] == "MegaSAM"
    begins = f"Solved with the megasam engine, {OWN}, without a depth prior"
    assert result["status"].startswith(begins)
    assert OWN in result["extrinsics"]["solving_method"]
    assert quality["checkpoint_licences"] == [
        {"name": "Built-in tracker", "licence": "Apache-2.0"},
        {"name": "Built-in RAFT", "licence": "Apache-2.0"},
    ]
    assert "built_in_weights" in {warning["code"] for warning in quality["warnings"]}
    assert quality["verdict"] != "good"
    assert "Built-in tracker" in (job.results_dir / "report.html").read_text("utf-8")
