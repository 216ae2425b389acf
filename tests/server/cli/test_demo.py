"""``megasam demo`` from the outside."""

import json
import shutil
import subprocess
import sysconfig

import pytest

MEGASAM = shutil.which("megasam", path=sysconfig.get_path("scripts"))


def run(*arguments, cwd):
    return subprocess.run(
        [MEGASAM, "demo", *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )


def test_a_plate_that_is_not_there(tmp_path):
    finished = run("missing.mp4", cwd=tmp_path)
    assert finished.returncode == 2
    assert "missing.mp4" in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "work" / "solve").mkdir(parents=True)
    (tmp_path / "work" / "solve" / "mine.txt").write_text("keep")
    finished = run("--out", tmp_path / "work", cwd=tmp_path)
    assert finished.returncode == 2
    assert "not the folder of an earlier solve" in finished.stderr
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["solve"]


@pytest.mark.slow
def test_the_demo_solves_its_own_clip(tmp_path):
    finished = run("--json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    events = [json.loads(line) for line in finished.stdout.splitlines()]
    errors = events[-1]["errors"]
    assert errors["posed"] == errors["frames"] == 50
    assert errors["rotation_rms_deg"] < 0.3
    assert errors["ate_percent"] < 3.0
    assert errors["focal_percent"] < 5.0
    assert errors["mask_iou"] > 0.4
    assert errors["depth_percent"] < 10.0
    folder = tmp_path / "megasam_demo"
    assert (folder / "demo.mp4").is_file() and (folder / "truth" / "poses.txt").is_file()
    assert (folder / "solve" / "report.html").is_file()
