"""Files of the dialog: job history, versions of results, quality, scene files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from megasam_maya.job_history import JobHistory, JobRecord
from megasam_maya.result_place import next_version
from megasam_maya.saved_json import read_json, write_json
from megasam_maya.scene_files import SCENE_FILES, copy_scene_files
from megasam_maya.solve_quality import read_quality
from megasam_shared.errors import MegasamError

from tests.maya.ui.job_functions import write_result

RECORD = JobRecord("a" * 32, "tcp://gpu01:5599", "sh010", "/p", "/r", 100.0, values={"lands_on": 1})


def test_history_keeps_the_newest_first_and_survives_damage(tmp_path):
    path = tmp_path / "new folder" / "jobs.json"
    history = JobHistory(path)
    assert history.records() == []
    history.add(RECORD)
    history.add(replace(RECORD, job="b" * 32, created=200.0))
    other = JobHistory(path)  # another program
    assert other.update("a" * 32, state="done", verdict="check").state == "done"
    assert other.update("c" * 32, state="done") is None
    assert [(r.job[0], r.state) for r in history.records()] == [("b", "queued"), ("a", "done")]
    assert history.records()[1].values == {"lands_on": 1}

    entries = json.loads(path.read_text())
    path.write_text(json.dumps([*entries, 7, {}, {"job": 1}, {**entries[0], "created": "now"}]))
    assert len(history.records()) == 2
    path.write_text("{ not json")
    assert history.records() == []


def test_a_history_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    JobHistory(tmp_path / "file" / "jobs.json").add(RECORD)


def test_json_of_another_type_is_not_taken(tmp_path):
    write_json(tmp_path / "x.json", [1])
    assert read_json(tmp_path / "x.json", {}) == {}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_every_solve_gets_a_version_of_its_own(tmp_path):
    assert next_version(tmp_path, "sh010").name == "sh010_solve_v001"
    (tmp_path / "sh010_solve_v001").mkdir()
    (tmp_path / "sh010_solve_v003.partial").mkdir()
    (tmp_path / "sh010x_solve_v009").mkdir()
    assert next_version(tmp_path, "sh010").name == "sh010_solve_v004"
    promised = [str(tmp_path / "sh010_solve_v007"), "/elsewhere/sh010_solve_v050"]
    assert next_version(tmp_path, "sh010", promised).name == "sh010_solve_v008"


def test_quality_of_a_result_folder(tmp_path):
    write_result(tmp_path, 120, "check")
    quality = read_quality(tmp_path)
    assert quality.headline == "Check: look before you use it" and quality.usable
    assert quality.frames[0] == 1001 and len(quality.errors) == 120
    assert quality.errors[53] is None
    assert quality.worst[0][0] == 1041
    assert ("Scale", "arbitrary") in quality.facts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("quality.json", None),
        ("quality.json", "[]"),
        ("quality.json", '{"verdict": "splendid", "per_frame_rms_px": []}'),
        ("quality.json", "{}"),
        ("camera_extrinsics.json", "{"),
        ("camera_extrinsics.json", '{"frame_numbers": 3}'),
    ],
)
def test_a_folder_that_is_no_result_says_so(tmp_path, name, content):
    write_result(tmp_path, 5, "good")
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(MegasamError) as caught:
        read_quality(tmp_path)
    assert caught.value.code == "results_unreadable" and str(tmp_path) in str(caught.value)


def test_scene_files_that_are_not_there(tmp_path):
    write_result(tmp_path / "solve", 5, "good")
    (tmp_path / "solve" / "camera.fbx").unlink()
    with pytest.raises(MegasamError) as caught:
        copy_scene_files(SCENE_FILES, tmp_path / "solve", tmp_path / "out", "sh010")
    assert caught.value.code == "scene_file_missing" and not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(MegasamError) as caught:
        copy_scene_files(SCENE_FILES[:1], tmp_path / "solve", tmp_path / "file", "sh010")
    assert caught.value.code == "output_not_writable"
