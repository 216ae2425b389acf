"""``megasam farm template``: what it writes, that farms understand it, and a run with openjd-cli."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from megasam_server.cli.settings_options import settings_arguments, with_settings_options
from megasam_shared.settings import SolveSettings
from typer.testing import CliRunner

from tests.server.cli.serve_process import environment, megasam
from tests.server.service.conftest import JOB_FUNCTION

OPENJD = shutil.which("openjd", path=str(Path(sys.executable).parent))


@pytest.fixture
def plates(tmp_path) -> list[str]:
    """A movie, and two sequences of the same name in folders of shots."""
    (tmp_path / "take.mov").write_bytes(b"solve\0")
    for shot in ("sh010", "sh020"):
        (tmp_path / shot).mkdir()
        for frame in (1001, 1002):
            (tmp_path / shot / f"plate.{frame}.exr").write_bytes(b"solve\0")
    return ["take.mov", "sh010/plate.%04d.exr", "sh020/plate.1001.exr"]


def test_template_has_a_task_for_each_shot(tmp_path, plates):
    ended = megasam(
        tmp_path,
        *("farm", "template", *plates, "--preset", "fast", "--flow-chunk-size", "5"),
        *("--frames", "1001-1002", "--gpu", "--hours", "2", "--out", "farm/job.json"),
    )
    assert ended.returncode == 0, ended.stderr
    template = json.loads((tmp_path / "farm" / "job.json").read_text())
    (step,) = template["steps"]
    shots, paths = step["parameterSpace"]["taskParameterDefinitions"]
    assert shots["range"] == ["take", "sh010_plate", "sh020_plate"]
    assert paths["range"] == [str(tmp_path / plate) for plate in plates]
    run = step["script"]["actions"]["onRun"]
    assert run["timeout"] == 7200
    assert run["args"][-2:] == ["--flow-chunk-size=5", "--frames=1001-1002"]
    assert step["hostRequirements"] == {"amounts": [{"name": "amount.worker.gpu", "min": 1}]}
    defaults = {p["name"]: p.get("default") for p in template["parameterDefinitions"]}
    assert defaults == {"Results": None, "Preset": "fast", "Engine": "auto", "Megasam": "megasam"}
    model = pytest.importorskip("openjd.model")
    job = model.decode_job_template(template=template)
    assert job.steps[0].name == "Solve"


def test_bundle_names_the_files_that_travel(tmp_path, plates):
    ended = megasam(
        tmp_path, *("farm", "template", *plates, "--bundle", "bundle", "--results", "solved")
    )
    assert ended.returncode == 0, ended.stderr
    bundle = {path.name: json.loads(path.read_text()) for path in (tmp_path / "bundle").iterdir()}
    references = bundle["asset_references.json"]["assetReferences"]
    files = [str(p) for p in tmp_path.rglob("*") if p.suffix in (".mov", ".exr")]
    assert references["inputs"]["filenames"] == sorted(files)
    assert references["outputs"]["directories"] == [str(tmp_path / "solved")]
    values = bundle["parameter_values.json"]["parameterValues"]
    assert values == [{"name": "Results", "value": str(tmp_path / "solved")}]
    printed = megasam(tmp_path, "farm", "template", *plates)
    assert json.loads(printed.stdout) == bundle["template.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.mov"], "no file or folder"),
        (["take.mov", "./take.mov"], "named 2 times"),
        (["{{x}}.mov"], "cannot stand in a template"),
        (["take.mov", "--out", "a", "--bundle", "b"], "two ways"),
        (["take.mov", "--out", "take.mov/x.json"], "cannot be written"),
        (["take.mov"] * 1025, "at most 1024"),
    ],
)
def test_mistakes_are_said(tmp_path, plates, monkeypatch, capsys, arguments, words):
    from megasam_server.cli import main

    (tmp_path / "{{x}}.mov").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["megasam", "farm", "template", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        SolveSettings(),
        SolveSettings(quality_preset="best", run_cvd=False, commercial_only=True),
        SolveSettings(quality_preset="fast", run_cvd=True, cvd_resolution=0.25, model_path="a b"),
        SolveSettings(focal_mm=35.0, film_back_mm=24.89, first_frame=-5, last_frame=-3),
        SolveSettings(focal_length_px=1200.5, optimize_focal=True, last_frame=-3),
        SolveSettings(engine="classical", first_frame=7, metric_depth_every=0),
    ],
)
def test_arguments_give_the_same_settings_again(settings):
    got = []

    @with_settings_options
    def command(*, settings: SolveSettings) -> None:
        """Keep them."""
        got.append(settings)

    app = typer.Typer()
    app.command()(command)
    ended = CliRunner().invoke(app, settings_arguments(settings))
    assert ended.exit_code == 0, ended.output
    assert got == [settings]


def test_solve_tells_a_farm_where_it_is_and_why_it_failed(tmp_path, plates):
    function = {"MEGASAM_JOB_FUNCTION": JOB_FUNCTION}
    ended = megasam(tmp_path, "solve", "take.mov", "--out", "out", "--openjd", **function)
    assert ended.returncode == 0, ended.stderr
    progress = [float(p) for p in re.findall(r"(?m)^openjd_progress: (.*)$", ended.stdout)]
    assert progress == sorted(progress) and progress[-1] == 100.0
    assert re.search(r"(?m)^openjd_status: \w", ended.stdout) and "Verdict: good" in ended.stdout
    (tmp_path / "black.mov").write_bytes(b"fail\0")
    ended = megasam(tmp_path, "solve", "black.mov", "--out", "out2", "--openjd", **function)
    assert ended.returncode == 2
    assert "openjd_fail: The plate is black. Shoot it again.\n" in ended.stdout


@pytest.mark.slow
@pytest.mark.skipif(OPENJD is None, reason="openjd-cli is not installed")
def test_two_shots_are_solved_by_openjd(tmp_path, room_clip):
    """The real solver, run as a farm runs it."""
    for name in ("sh010", "sh020"):
        shutil.copyfile(room_clip.movie, tmp_path / f"{name}.mp4")
    written = megasam(
        tmp_path,
        *("farm", "template", "sh010.mp4", "sh020.mp4", "--preset", "fast"),
        *("--frames", "1-12", "--out", "job.json"),
    )
    assert written.returncode == 0, written.stderr
    checked = subprocess.run([OPENJD, "check", "job.json"], cwd=tmp_path, capture_output=True)
    assert checked.returncode == 0, checked.stdout
    (tmp_path / "session").mkdir()
    env = environment(tmp_path, TMPDIR=str(tmp_path / "session"))
    del env["MEGASAM_JOB_FUNCTION"]
    program = shutil.which("megasam", path=str(Path(sys.executable).parent))
    ran = subprocess.run(
        [
            *(OPENJD, "run", "job.json", "--step", "Solve"),
            *("-p", f"Results={tmp_path / 'solved'}", "-p", f"Megasam={program}"),
            *("-p", "Engine=classical"),
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert re.search(r"(Chunks|Tasks) run: 2", ran.stdout)
    assert len(re.findall(r"openjd_progress: 100.0", ran.stdout)) >= 2
    for name in ("sh010", "sh020"):
        found = json.loads((tmp_path / "solved" / name / "camera_extrinsics.json").read_text())
        assert found["num_frames"] == 12 and found["source"] == "Classical"
    # A folder for sessions is openjd's own; nothing of ours is beside it.
    assert [path.name for path in (tmp_path / "session").rglob("*")] == ["OpenJD"]
