"""``megasam checkpoints`` as a process: list, verify, import."""

from __future__ import annotations

import json
import os

import pytest
from megasam_server.checkpoints.importing import import_file, recognise
from megasam_server.checkpoints.registry import CHECKPOINTS
from megasam_shared.errors import MegasamError

from tests.server.checkpoints.published import NOTHING_KNOWN, facts_of, published


def by_name(ended) -> dict:
    return {fact["name"]: fact for fact in json.loads(ended.out)["checkpoints"]}


def test_list_shows_every_checkpoint_without_torch(folder, megasam_with):
    packages = "torch torchvision timm safetensors kornia numpy cv2"
    ended = megasam_with({}, "checkpoints", "list", without=packages)
    assert ended.code == 0, ended.err
    for checkpoint in CHECKPOINTS:
        assert checkpoint.files[0].name in ended.out
        assert checkpoint.licence in ended.out
    assert "missing" in ended.out
    assert str(folder) in ended.out

    facts = by_name(megasam_with({}, "checkpoints", "list", "--json", without=packages))
    assert facts["depth_anything_v2_vits"]["commercial_use"] is True
    assert facts["depth_anything_v2_vitl"]["commercial_use"] is False
    assert facts["unidepth_v2_vits"]["size"] is None
    assert {fact["state"] for fact in facts.values()} == {"missing"}


def test_verify_reads_and_says_what_is_damaged(folder, megasam_with):
    good, bad = folder / "raft-things.pth", folder / "megasam_final.pth"
    good.write_bytes(b"good")
    bad.write_bytes(b"bad")
    facts = {good.name: facts_of(good), bad.name: facts_of(bad) | {"sha256": "0" * 64}}

    ended = megasam_with(facts, "checkpoints", "verify")
    assert ended.code == 1
    assert "is not the published file" in ended.out

    states = {
        n: f["state"]
        for n, f in by_name(
            megasam_with(facts, "checkpoints", "verify", "raft_things", "--json", without="torch")
        ).items()
    }
    assert states == {"raft_things": "verified"}
    assert megasam_with(facts, "checkpoints", "verify", "raft-things.pth").code == 0
    assert megasam_with(facts, "checkpoints", "verify", "unidepth_v2_vitl").code == 1
    ended = megasam_with(facts, "checkpoints", "verify", "nonsense")
    assert ended.code == 2
    assert "There is no checkpoint 'nonsense'" in ended.err


def test_verify_without_torch_says_what_it_could_not_check(folder, megasam_with, droid_state):
    import torch

    path = folder / "megasam_final.pth"
    torch.save(droid_state, path)
    facts = {path.name: NOTHING_KNOWN}
    ended = megasam_with(facts, "checkpoints", "verify", without="torch")
    assert ended.code == 0, ended.err
    assert "not verified" in ended.out
    assert "only be looked into with the networks' packages" in ended.out


def test_import_recognises_the_published_file_whatever_it_is_called(folder, tmp_path, megasam_with):
    download = tmp_path / "model (1).pth"
    download.write_bytes(b"weights")
    facts = {"depth_anything_v2_vitl.pth": facts_of(download)}
    refused = megasam_with(facts, "checkpoints", "import", download, "--commercial-only")
    assert refused.code == 2
    assert "forbids commercial use" in refused.err
    assert list(folder.iterdir()) == []

    ended = megasam_with(facts, "checkpoints", "import", download, without="torch")
    assert ended.code == 0, ended.err
    assert "by its SHA-256" in ended.out
    assert "CC-BY-NC-4.0" in ended.out
    assert "NOT FOR COMMERCIAL USE" in ended.out
    assert [path.name for path in folder.iterdir()] == ["depth_anything_v2_vitl.pth"]
    assert (folder / "depth_anything_v2_vitl.pth").read_bytes() == b"weights"
    assert download.exists()

    again = megasam_with(facts, "checkpoints", "import", download, "--json")
    said = json.loads(again.out)
    assert (said["name"], said["state"]) == ("depth_anything_v2_vitl", "verified")
    states = by_name(megasam_with(facts, "checkpoints", "verify", "--json"))
    assert states["depth_anything_v2_vitl"]["state"] == "verified"


def test_import_makes_the_folder_and_recognises_by_tensors_where_no_hash_is_published(
    tmp_path, megasam_with, droid_state
):
    torch = pytest.importorskip("torch")
    download = tmp_path / "download.bin"
    torch.save(droid_state, download)
    folder = tmp_path / "new" / "folder"
    facts = {"megasam_final.pth": NOTHING_KNOWN}
    ended = megasam_with(facts, "checkpoints", "import", download, "--folder", folder)
    assert ended.code == 0, ended.err
    assert "by the names and shapes of its tensors" in ended.out
    assert "CC-BY-4.0" in ended.out
    assert (folder / "megasam_final.pth").read_bytes() == download.read_bytes()


def test_what_cannot_be_recognised_is_not_imported(folder, tmp_path, megasam_with, droid_state):
    torch = pytest.importorskip("torch")
    trained = tmp_path / "megasam_final.pth"
    torch.save(droid_state, trained)
    ended = megasam_with({}, "checkpoints", "import", trained, without="torch")
    assert ended.code == 2
    assert "networks' packages" in ended.err
    ended = megasam_with({}, "checkpoints", "import", tmp_path / "not there.pth")
    assert ended.code == 2
    assert "cannot be read" in ended.err
    assert list(folder.iterdir()) == []


def test_the_unknown_is_refused(folder, tmp_path, droid_state):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    unknown = tmp_path / "unknown.pth"
    torch.save({"weight": torch.zeros(3)}, unknown)
    with pytest.raises(MegasamError, match="none of the known checkpoints"):
        recognise(unknown)

    # The right shapes with other weights: nobody knows under which licence.
    trained = tmp_path / "megasam_final.pth"
    torch.save(droid_state, trained)
    with pytest.raises(MegasamError, match="has the shapes of MegaSaM, but it is not the publ"):
        recognise(trained)
    with published({"megasam_final.pth": NOTHING_KNOWN}):
        assert recognise(trained).checkpoint.name == "megasam"
        converted = tmp_path / "megasam_final.safetensors"  # a form that nobody published
        safetensors.torch.save_file(droid_state, converted)
        with pytest.raises(MegasamError, match="nobody knows where it comes from"):
            recognise(converted)


def test_a_copy_that_fails_leaves_nothing_and_keeps_what_was_there(folder, tmp_path, monkeypatch):
    download = tmp_path / "download.pth"
    download.write_bytes(b"weights")
    target = folder / "raft-things.pth"
    target.write_bytes(b"what was there")
    with published({target.name: facts_of(download)}):
        recognised = recognise(download)
        with monkeypatch.context() as patched:

            def full(_):
                raise OSError(28, "No space left on device")

            patched.setattr(os, "fsync", full)
            with pytest.raises(MegasamError, match="No space left on device") as error:
                import_file(download, recognised, folder)
            assert error.value.code == "checkpoint_not_written"
        download.write_bytes(b"still downloading")
        with pytest.raises(MegasamError, match="changed while it was copied"):
            import_file(download, recognised, folder)
    assert [path.name for path in folder.iterdir()] == [target.name]
    assert target.read_bytes() == b"what was there"


def test_a_file_that_lies_in_its_place_already_stays(folder):
    path = folder / "raft-things.pth"
    path.write_bytes(b"weights")
    with published({path.name: facts_of(path)}):
        assert import_file(path, recognise(path), folder) == path
    assert [p.name for p in folder.iterdir()] == [path.name]
