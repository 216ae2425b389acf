"""Checkpoint files that were cut off, e.g. by a download: the job says so before it begins."""

from __future__ import annotations

import pytest
from megasam_server.checkpoints.registry import weight_files
from megasam_shared.client import SolverClient
from megasam_shared.settings import SolveSettings

from tests.server.service.serving import Serving


@pytest.fixture
def cut_off_checkpoints(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for _, file in weight_files():
        # The beginning of what torch.save writes, and nothing after it.
        (folder / file.name).write_bytes(b"PK\x03\x04" + bytes(5000))
    return folder


@pytest.mark.slow
def test_cut_off_checkpoints_fail_the_job_with_their_names(
    cut_off_checkpoints, make_plate, tmp_path
):
    pytest.importorskip("torch")
    pytest.importorskip("kornia")
    environment = {"MEGASAM_CHECKPOINTS": str(cut_off_checkpoints)}
    with (
        Serving(tmp_path / "state", job_function=None, environment=environment) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        settings = SolveSettings(engine="megasam", fallback_policy="fail")
        job = client.submit(client.upload(make_plate()), settings).job
        result = client.wait(job, timeout=60)
        assert (result.state, result.error.code) == ("failed", "missing_checkpoints")
        # Which file, and what is wrong with it; not that there is none.
        assert "bytes" in result.error.message or "damaged" in result.error.message
        assert any(file.name in result.error.message for _, file in weight_files())
        assert "megasam checkpoints" in result.error.hint
        # It is not the worker that failed: nothing is tried again.
        assert client.list_jobs()[0].attempts == 1


@pytest.mark.slow
def test_cut_off_checkpoints_leave_the_classical_engine(cut_off_checkpoints, room_clip, tmp_path):
    environment = {"MEGASAM_CHECKPOINTS": str(cut_off_checkpoints)}
    with (
        Serving(tmp_path / "state", job_function=None, environment=environment) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        settings = SolveSettings(engine="auto", quality_preset="fast", last_frame=8)
        job = client.submit(client.upload([room_clip.movie]), settings).job
        result = client.wait(job, timeout=300)
        assert result.state == "done"
        assert result.result["extrinsics"]["source"] == "Classical"
        assert "Missing checkpoints" in result.result["status"]
