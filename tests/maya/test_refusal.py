"""No client uses a failed solve by mistake: one rule, and every way into a scene keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from megasam_maya.scene.apply import ApplyOptions, apply_shot
from megasam_maya.scene_files import SCENE_FILES, copy_scene_files
from megasam_maya.shot import read_shot
from megasam_maya.solve_quality import read_quality
from megasam_shared.errors import MegasamError
from megasam_shared.extrinsics import FALLBACK_SOURCE
from megasam_shared.quality import is_usable
from megasam_shared.remote_solve import FinishedSolve

from tests.maya.scene.made_up_solve import make_up_solve

CAMERA = "camera_extrinsics.json"


@pytest.mark.parametrize(
    ("quality", "also_said", "usable"),
    [
        ({"verdict": "good", "usable": True}, {"usable": True}, True),
        ({"verdict": "check", "usable": True}, {"usable": True}, True),
        ({"verdict": "check"}, {"usable": True}, True),
        ({"verdict": "failed", "usable": False}, {"usable": False}, False),
        # Files of different solves, edited by hand, or of another version: the worse one counts.
        ({"verdict": "failed"}, {"usable": True}, False),
        ({"verdict": "failed", "usable": True}, {"usable": True}, False),
        ({"verdict": "good", "usable": False}, {"usable": True}, False),
        ({"verdict": "good", "usable": True}, {"usable": False}, False),
        ({"verdict": "good", "usable": True}, {"usable": 1}, False),
        ({"verdict": "good", "usable": True}, {}, False),
        ({"verdict": "splendid", "usable": True}, {"usable": True}, False),
        ({}, {"usable": True}, False),
    ],
)
def test_what_is_usable(quality, also_said, usable):
    assert is_usable(quality, also_said) is usable
    finished = FinishedSolve("job", also_said | {"quality": quality}, Path("out"))
    assert finished.usable is usable


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def identity_cameras(folder: Path) -> None:
    """What the solver writes when the engine that was asked for cannot run."""
    change(folder / CAMERA, source=FALLBACK_SOURCE, usable=False, status="⚠ Missing checkpoints")
    change(folder / "quality.json", verdict="failed", usable=False, reasons=["Nothing was solved."])


def failed(folder: Path) -> None:
    change(folder / CAMERA, usable=False)
    change(folder / "quality.json", verdict="failed", usable=False, reasons=["Nothing was solved."])


def of_an_older_solver(folder: Path) -> None:
    """Nothing but the verdict speaks against it."""
    quality = json.loads((folder / "quality.json").read_text())
    del quality["usable"]
    quality |= {"verdict": "failed", "reasons": ["Nothing was solved."]}
    (folder / "quality.json").write_text(json.dumps(quality))


@pytest.mark.parametrize("spoil", [identity_cameras, failed, of_an_older_solver])
def test_neither_apply_nor_scene_files_take_a_failed_solve_without_being_told_to(
    maya, host, tmp_path, spoil
):
    solve = make_up_solve(tmp_path / "r", images=False)
    for file in SCENE_FILES[:1]:
        (solve.folder / file.name).write_text("a camera")
    spoil(solve.folder)
    shot = read_shot(solve.folder)
    assert not shot.usable and not read_quality(solve.folder).usable
    before = maya.snapshot()
    with pytest.raises(MegasamError) as caught:
        apply_shot(shot, ApplyOptions(), host)
    assert caught.value.code == "shot_not_usable"
    assert shot.status in caught.value.message and "Nothing was solved." in caught.value.message
    assert "insist" in caught.value.hint
    assert maya.snapshot() == before

    out = tmp_path / "scenes"
    with pytest.raises(MegasamError) as caught:
        copy_scene_files(SCENE_FILES[:1], solve.folder, out, "sh010")
    assert caught.value.code == "shot_not_usable"
    assert not out.exists()

    assert apply_shot(shot, ApplyOptions(insist=True), host).camera
    (written,) = copy_scene_files(SCENE_FILES[:1], solve.folder, out, "sh010", insist=True)
    assert written.read_text() == "a camera"


def test_a_solve_to_look_at_is_applied_as_a_good_one_is(maya, host, tmp_path):
    solve = make_up_solve(tmp_path / "r", images=False)
    change(solve.folder / "quality.json", verdict="check", reasons=["Almost no parallax."])
    shot = read_shot(solve.folder)
    assert shot.verdict == "check" and shot.usable
    assert apply_shot(shot, ApplyOptions(), host).camera
