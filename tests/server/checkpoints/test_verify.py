"""Whether checkpoints are there and are what was published, and which of them a solve uses."""

from __future__ import annotations

import hashlib
import os

import pytest
from megasam_server.checkpoints import verify as verify_module
from megasam_server.checkpoints.facts import checkpoint_facts, glance_at_all
from megasam_server.checkpoints.locate import checkpoint_folder, find_weights, hash_cache_path
from megasam_server.checkpoints.registry import CHECKPOINTS, find_checkpoint
from megasam_server.checkpoints.selection import select_checkpoints
from megasam_server.checkpoints.verify import glance, verify
from megasam_shared.settings import SolveSettings
from megasam_shared.transfer import HashCache

from tests.server.checkpoints.published import NOTHING_KNOWN, facts_of, published

MEGASAM = find_checkpoint("megasam")


def old(path):
    """A file so old that its hash may be remembered."""
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return path


@pytest.fixture
def all_there(folder):
    """A file for every checkpoint, which is the published one."""
    facts = {}
    for checkpoint in CHECKPOINTS:
        path = old_file(folder, checkpoint.files[0].name)
        facts[path.name] = facts_of(path)
    with published(facts):
        yield folder


def old_file(folder, name):
    path = folder / name
    path.write_bytes(b"weights of " + name.encode())
    return old(path)


# --- one checkpoint


def test_the_folder_is_the_setting_or_the_variable(folder, tmp_path):
    assert checkpoint_folder() == folder
    assert checkpoint_folder(str(tmp_path)) == tmp_path


def test_nothing_there_is_missing_also_in_a_folder_that_may_not_be_read(folder):
    assert verify(MEGASAM, folder, HashCache()).state == "missing"
    assert verify(MEGASAM, folder / "not" / "there", HashCache()).state == "missing"
    assert find_weights(MEGASAM, folder) is None


def test_the_published_hash_decides_and_is_read_once(folder, monkeypatch):
    path = old_file(folder, "megasam_final.pth")
    hashes = HashCache(hash_cache_path())
    with published({path.name: facts_of(path)}):
        assert glance(MEGASAM, folder, hashes).state == "unchecked"
        assert verify(MEGASAM, folder, hashes).state == "verified"
        hashes.save()
        monkeypatch.setattr(hashlib, "file_digest", None)  # whoever reads again fails
        again = HashCache(hash_cache_path())
        assert glance(MEGASAM, folder, again).state == "verified"
        assert verify(MEGASAM, folder, again).state == "verified"


def test_a_file_that_changes_is_hashed_again(folder):
    path = old_file(folder, "megasam_final.pth")
    hashes = HashCache()
    with published({path.name: facts_of(path)}):
        assert verify(MEGASAM, folder, hashes).state == "verified"
        changed = bytearray(path.read_bytes())
        changed[0] ^= 1
        path.write_bytes(changed)
        status = verify(MEGASAM, folder, hashes)
    assert status.state == "damaged"
    assert not status.usable
    assert hashlib.sha256(changed).hexdigest() in status.reason
    assert str(folder) not in status.reason


def test_the_authors_own_git_proves_a_file_whose_hash_others_wrote_down_wrongly(folder):
    path = old_file(folder, "megasam_final.pth")
    data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    facts = facts_of(path) | {"sha256": "0" * 64}
    with published({path.name: facts}):
        assert verify(MEGASAM, folder, HashCache()).state == "damaged"
    with published({path.name: facts | {"git_blob": blob}}):
        assert verify(MEGASAM, folder, HashCache()).state == "verified"


def test_a_wrong_size_needs_no_reading(folder):
    path = old_file(folder, "megasam_final.pth")
    assert glance(MEGASAM, folder, HashCache()).state == "damaged"
    assert "instead of 20,812,149" in glance(MEGASAM, folder, HashCache()).reason
    path.write_bytes(b"")
    with published({path.name: NOTHING_KNOWN}):
        assert glance(MEGASAM, folder, HashCache()).state == "damaged"


def test_without_a_published_hash_names_and_shapes_decide(folder, droid_state):
    torch = pytest.importorskip("torch")
    path = folder / "megasam_final.pth"
    with published({path.name: NOTHING_KNOWN}):
        torch.save(droid_state, path)
        assert verify(MEGASAM, folder, HashCache()).state == "fits"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert "has changed since" in verify(MEGASAM, folder, HashCache()).reason
        torch.save({"a": torch.zeros(1)}, path)
        status = verify(MEGASAM, folder, HashCache())
    assert status.state == "damaged"
    assert "130 missing" in status.reason


def test_any_form_of_a_checkpoint_will_do(folder):
    unidepth = find_checkpoint("unidepth_v2_vitl")
    path = old_file(folder, "unidepth_v2_vitl14.bin")
    status = glance(unidepth, folder, HashCache())
    assert (status.path, status.state) == (path, "unchecked")
    assert checkpoint_facts([status])[0].file == path.name


# --- which ones a solve uses


def select(**settings):
    return select_checkpoints(SolveSettings(**settings))


def names(selection):
    return {stage: status.checkpoint.name for stage, status in selection.chosen.items()}


def test_a_solve_takes_the_best_of_each_stage_and_carries_its_licence(all_there):
    selection = select(quality_preset="best")
    assert names(selection) == {
        "mono_depth": "depth_anything_v2_vitl",
        "metric_depth": "unidepth_v2_vitl",
        "tracking": "megasam",
        "flow": "raft_things",
    }
    assert ("UniDepth V2 Large", "CC-BY-NC-4.0") in selection.licences
    assert ("RAFT (things)", "BSD-3-Clause") in selection.licences
    assert selection.lacks == selection.omissions == []


def test_the_fast_preset_takes_the_smallest_and_no_metric_depth(all_there):
    assert names(select(quality_preset="fast")) == {
        "mono_depth": "depth_anything_v2_vits",
        "tracking": "megasam",
        "flow": "raft_things",
    }


def test_commercial_only_counts_the_rest_as_missing_and_says_why(all_there):
    selection = select(quality_preset="best", commercial_only=True)
    assert names(selection)["mono_depth"] == "depth_anything_v1_vitl"
    assert "metric_depth" not in selection.chosen
    assert all("NC" not in licence for _, licence in selection.licences)
    assert selection.lacks == []
    said = " ".join(selection.omissions)
    assert "UniDepth V2 Large is not used: its licence CC-BY-NC-4.0 forbids" in said


def test_a_damaged_file_is_passed_over(all_there):
    path = all_there / "depth_anything_v2_vitl.pth"
    path.write_bytes(path.read_bytes()[::-1])
    selection = select(quality_preset="best")
    assert names(selection)["mono_depth"] == "depth_anything_v1_vitl"
    assert any("is not the published file" in omission for omission in selection.omissions)


def test_only_tracking_and_flow_are_needed(all_there):
    for path in all_there.glob("*depth*"):
        path.unlink()
    selection = select()
    assert selection.lacks == []
    assert len(selection.omissions) == 2
    (all_there / "raft-things.pth").unlink()
    assert "raft-things.pth" in " ".join(select().lacks)
    assert str(all_there) in " ".join(select().lacks)


def test_the_setting_names_another_folder(all_there, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert len(select(model_path=str(empty)).lacks) == 2
    assert verify_module.verify(MEGASAM, empty, HashCache()).state == "missing"


def test_facts_hold_no_path_of_the_machine(all_there):
    (all_there / "megasam_final.pth").write_bytes(b"cut")
    for fact in checkpoint_facts(glance_at_all()):
        assert str(all_there.parent) not in repr(fact)
