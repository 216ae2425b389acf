"""The licences of the checkpoints that a solve uses reach what is delivered."""

from __future__ import annotations

import json
from dataclasses import replace

from megasam_server.pipeline import run
from megasam_server.pipeline.engines import choose_engine
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import SilentProgress
from megasam_shared.settings import SolveSettings


def test_licences_of_the_chosen_checkpoints_are_in_result_and_report(
    room_clip, tmp_path, monkeypatch
):
    def choose_with_checkpoints(settings):
        choice = choose_engine(settings)
        return replace(choice, licences=[("UniDepth V2 Large", "CC-BY-NC-4.0")])

    monkeypatch.setattr(run, "choose_engine", choose_with_checkpoints)
    monkeypatch.setenv("MEGASAM_CHECKPOINTS", str(tmp_path / "none"))
    settings = SolveSettings(engine="megasam", quality_preset="fast", last_frame=3)
    work = tmp_path / "work"
    work.mkdir()
    job = SolveJob(room_clip.movie, None, settings, work, tmp_path / "results")
    run.run_job(job, SilentProgress())
    quality = json.loads((job.results_dir / "quality.json").read_text("utf-8"))
    assert quality["checkpoint_licences"] == [
        {"name": "UniDepth V2 Large", "licence": "CC-BY-NC-4.0"}
    ]
    assert "CC-BY-NC-4.0" in (job.results_dir / "report.html").read_text("utf-8")
