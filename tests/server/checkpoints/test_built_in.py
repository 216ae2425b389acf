"""Weights of our own: where they are found, and that official ones go before them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from megasam_server.checkpoints import selection as selection_module  # noqa: E402
from megasam_server.checkpoints.facts import glance_at_all  # noqa: E402
from megasam_server.checkpoints.locate import BUILT_IN_VARIABLE, built_in_here  # noqa: E402
from megasam_server.checkpoints.registry import BUILT_IN, CHECKPOINTS, find_checkpoint  # noqa: E402
from megasam_server.checkpoints.selection import select_checkpoints  # noqa: E402
from megasam_server.checkpoints.verify import verify  # noqa: E402
from megasam_shared.settings import SolveSettings  # noqa: E402
from megasam_shared.transfer import HashCache  # noqa: E402

from tests.server.checkpoints.published import facts_of, published  # noqa: E402

TRACKER, RAFT = (checkpoint.files[0].name for checkpoint in BUILT_IN)


@pytest.fixture
def built_in(folder, random_built_in, tmp_path, monkeypatch) -> Path:
    """A folder of random weights in place of the package's, which a test may change."""
    place = tmp_path / "built in"
    shutil.copytree(random_built_in, place)
    monkeypatch.setenv(BUILT_IN_VARIABLE, str(place))
    return place


def select(**settings):
    return select_checkpoints(SolveSettings(**settings))


def names(selection):
    return {stage: status.checkpoint.name for stage, status in selection.chosen.items()}


def test_without_official_checkpoints_a_solve_takes_the_built_in_ones(built_in, folder):
    for settings in ({}, {"quality_preset": "fast"}, {"commercial_only": True}):
        selection = select(**settings)
        assert names(selection) == {"tracking": "built_in_tracker", "flow": "built_in_raft"}
        assert selection.lacks == []
        assert selection.licences == [
            ("Built-in tracker", "Apache-2.0"),
            ("Built-in RAFT", "Apache-2.0"),
        ]
        assert selection.built_in == {
            "tracking": f"No checkpoint for camera tracking in {folder}: megasam_final.pth.",
            "flow": f"No checkpoint for optical flow in {folder}: raft-things.pth.",
        }
        # What others can do without is missed as before, and nothing else.
        assert all("depth" in omission or "metric" in omission for omission in selection.omissions)


def test_official_checkpoints_go_before_stage_by_stage(built_in, folder):
    path = folder / "raft-things.pth"
    path.write_bytes(b"official")
    with published({path.name: facts_of(path)}):
        selection = select()
    assert names(selection) == {"tracking": "built_in_tracker", "flow": "raft_things"}
    assert selection.built_in.keys() == {"tracking"}


def test_they_replace_an_official_one_that_commercial_work_may_not_use(
    built_in, folder, monkeypatch
):
    limited = tuple(replace(c, licence="CC-BY-NC-4.0", commercial_use=False) for c in CHECKPOINTS)
    monkeypatch.setattr(selection_module, "CHECKPOINTS", limited)
    path = folder / "raft-things.pth"
    path.write_bytes(b"official")
    with published({path.name: facts_of(path)}):
        assert names(select())["flow"] == "raft_things"
        selection = select(commercial_only=True)
    assert names(selection)["flow"] == "built_in_raft"
    assert "CC-BY-NC-4.0 forbids commercial use" in selection.built_in["flow"]


def test_an_official_file_that_is_broken_is_replaced_and_named(built_in, folder):
    (folder / "megasam_final.pth").write_bytes(b"cut off")
    selection = select()
    assert names(selection)["tracking"] == "built_in_tracker"
    assert "megasam_final.pth has 7 bytes instead of 20,812,149" in selection.built_in["tracking"]


def test_a_built_in_file_that_is_broken_is_not_used_and_named(built_in):
    (built_in / TRACKER).write_bytes((built_in / RAFT).read_bytes())
    (built_in / RAFT).write_bytes(b"cut off")
    selection = select()
    assert selection.chosen == selection.built_in == {}
    said = " ".join(selection.lacks)
    assert "does not hold the weights of Built-in tracker" in said
    assert "raft_fp16.0.safetensors is damaged" in said


def test_a_stage_without_built_in_weights_lacks_them_as_ever(built_in):
    (built_in / TRACKER).unlink()
    assert [checkpoint.name for checkpoint in built_in_here()] == ["built_in_raft"]
    selection = select()
    assert names(selection) == {"flow": "built_in_raft"}
    assert len(selection.lacks) == 1 and "camera tracking" in selection.lacks[0]


def test_of_the_packages_own_files_the_hash_decides(folder, monkeypatch):
    monkeypatch.delenv(BUILT_IN_VARIABLE)
    raft = find_checkpoint("built_in_raft")
    assert verify(raft, folder, HashCache()).state == "verified"
    object.__setattr__(raft.files[0], "sha256", (right := raft.files[0].sha256)[::-1])
    try:
        assert verify(raft, folder, HashCache()).state == "damaged"
    finally:
        object.__setattr__(raft.files[0], "sha256", right)


def test_they_are_listed_as_built_in(built_in, megasam_with):
    own = [status for status in glance_at_all() if status.checkpoint.built_in]
    assert [(status.checkpoint.name, status.usable) for status in own] == [
        ("built_in_tracker", True),
        ("built_in_raft", True),
    ]
    said = megasam_with({}, "checkpoints", "list").out.splitlines()
    for name in (TRACKER, RAFT):
        (line,) = [line for line in said if name in line]
        assert "built in" in line and "Apache-2.0" in line and "yes" in line
    facts = json.loads(megasam_with({}, "checkpoints", "verify", "--json").out)["checkpoints"]
    assert [fact["name"] for fact in facts if fact["built_in"]] == [c.name for c in BUILT_IN]
    assert {fact["state"] for fact in facts if fact["built_in"]} == {"fits"}
