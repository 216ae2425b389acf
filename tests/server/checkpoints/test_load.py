"""Weight files into networks, and what becomes of files that are not what they should be."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
from megasam_server.checkpoints.load import identify, load_network, official_state
from megasam_server.checkpoints.read import check_archive, read_weights
from megasam_server.checkpoints.registry import CHECKPOINTS, find_checkpoint
from megasam_shared.errors import MegasamError

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

MEGASAM = find_checkpoint("megasam")
RAFT = find_checkpoint("raft_things")


def saved(path: Path, content: object, **options) -> Path:
    torch.save(content, path, **options)
    return path


def refusal(path: Path) -> MegasamError:
    with pytest.raises(MegasamError) as error:
        official_state(MEGASAM, path)
    assert str(path.name) in error.value.message
    assert error.value.hint
    return error.value


# --- files that are right


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_the_tracking_network_gets_the_weights_of_its_file(tmp_path, droid_state, wrapped):
    content = droid_state if wrapped is None else {wrapped: droid_state, "epoch": 7}
    network = load_network(MEGASAM, saved(tmp_path / "megasam_final.pth", content))
    assert not network.training
    state = network.state_dict()
    assert len(state) == 130
    for name, tensor in state.items():
        published = droid_state[f"module.{name}"]
        if name.startswith(("update.weight.2.", "update.delta.2.")):
            assert len(tensor) == 2
            published = published[:2]
        assert torch.equal(tensor, published), name
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_network_of_another_librarys_layers_gets_its_weights_under_their_names(
    tmp_path, raft_state
):
    from megasam_server.checkpoints.architectures import ARCHITECTURES

    network = load_network(RAFT, saved(tmp_path / "raft-things.pth", raft_state))
    back = ARCHITECTURES["raft"].to_official(network.state_dict())
    assert {f"module.{name}" for name in back} == set(raft_state)
    for name, tensor in back.items():
        assert torch.equal(tensor, raft_state[f"module.{name}"]), name


@pytest.mark.parametrize("form", ["safetensors", "half", "old format", "two channels"])
def test_other_forms_of_the_same_weights_load_too(tmp_path, droid_state, form):
    state = {name.removeprefix("module."): tensor for name, tensor in droid_state.items()}
    path = tmp_path / "weights.pth"
    if form == "safetensors":
        path = tmp_path / "weights.safetensors"
        safetensors_torch.save_file(state, path)
    elif form == "half":
        saved(path, {name: tensor.half() for name, tensor in state.items()})
    elif form == "old format":
        saved(path, state, _use_new_zipfile_serialization=False)
    else:
        heads = ("update.weight.2.", "update.delta.2.")
        saved(path, {n: t[:2].clone() if n.startswith(heads) else t for n, t in state.items()})
    network = load_network(MEGASAM, path)
    weight = network.fnet.conv1.weight
    assert weight.dtype == torch.float32
    expected = state["fnet.conv1.weight"]
    assert torch.equal(weight, expected.half().float() if form == "half" else expected)


def test_every_network_of_the_table_can_be_built_and_knows_its_published_names():
    from megasam_server.checkpoints.architectures import ARCHITECTURES, official_shapes

    for checkpoint in CHECKPOINTS:
        shapes = official_shapes(checkpoint.network)
        with torch.device("meta"):
            network = ARCHITECTURES[checkpoint.network].build()
            published = {name: torch.empty(shape) for name, shape in shapes.items()}
            state = ARCHITECTURES[checkpoint.network].from_official(published, network.state_dict())
            network.load_state_dict(state)


def test_a_file_is_recognised_by_its_tensors(tmp_path, droid_state, raft_state):
    assert identify(saved(tmp_path / "a.pth", droid_state)) == [MEGASAM]
    assert identify(saved(tmp_path / "b.pth", raft_state)) == [RAFT]
    assert identify(saved(tmp_path / "c.pth", {"weight": torch.zeros(3)})) == []


# --- files that do not fit


def test_one_error_lists_what_is_missing_unexpected_and_of_another_shape(tmp_path, droid_state):
    state = dict(droid_state)
    for index in range(8):
        state[f"module.extra.{index}"] = torch.zeros(1)
    for name in [name for name in state if ".cnet.layer3." in name]:
        del state[name]
    state["module.fnet.conv1.weight"] = torch.zeros(32, 3, 5, 5)
    error = refusal(saved(tmp_path / "weights.pth", state))
    assert error.code == "checkpoint_mismatch"
    assert "10 missing: cnet.layer3.0.conv1.bias" in error.message
    assert "and 6 more; 8 unexpected: extra.0, extra.1, extra.2, extra.3, and 4" in error.message
    assert "1 of another shape: fnet.conv1.weight (32x3x5x5 instead of 32x3x7x7)" in error.message
    assert len(error.message) < 1000


def test_weights_of_another_network_are_named(tmp_path, raft_state):
    error = refusal(saved(tmp_path / "weights.pth", raft_state))
    assert error.code == "checkpoint_mismatch"
    assert "RAFT" in error.hint


def test_a_tensor_that_claims_to_be_huge_is_refused_by_its_shape(tmp_path, droid_state):
    huge = torch.zeros(1).expand(10**13)
    state = droid_state | {"module.fnet.conv1.weight": huge}
    error = refusal(saved(tmp_path / "weights.pth", state))
    assert "10000000000000 instead of 32x3x7x7" in error.message


# --- files that are no weight files


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_does_not_run(tmp_path, droid_state, legacy):
    witness = tmp_path / "it ran"
    path = tmp_path / "weights.pth"
    content = {"state_dict": droid_state, "extra": Evil(witness)}
    saved(path, content, _use_new_zipfile_serialization=not legacy)
    error = refusal(path)
    assert error.code == "checkpoint_unsafe"
    assert "mkdir" in error.message
    assert not witness.exists()


def test_a_plain_pickle_does_not_run_either(tmp_path):
    witness = tmp_path / "it ran"
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Evil(witness), protocol=2))
    assert refusal(path).code in ("checkpoint_unsafe", "checkpoint_damaged")
    assert not witness.exists()


def test_objects_beside_the_weights_are_refused_with_their_name(tmp_path, droid_state):
    content = {"model": droid_state, "args": argparse.Namespace(lr=1e-4)}
    error = refusal(saved(tmp_path / "weights.pth", content))
    assert error.code == "checkpoint_unsafe"
    assert "argparse.Namespace" in error.message


@pytest.mark.parametrize("cut", [10, 400, 50_000, 20_000_000])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_is_cut_off_is_damaged(tmp_path, droid_state, cut, legacy):
    path = saved(tmp_path / "weights.pth", droid_state, _use_new_zipfile_serialization=not legacy)
    os.truncate(path, path.stat().st_size - cut)
    assert refusal(path).code == "checkpoint_damaged"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>\n<html><body>Download</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "pointer"),
        (b"\x93NUMPY" + bytes(2000), "not what torch.save writes"),
        (b"PK\x03\x04" + bytes(2000), "damaged"),
    ],
)
def test_what_is_no_weight_file_at_all_is_told_apart(tmp_path, content, said):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    error = refusal(path)
    assert error.code == "checkpoint_damaged"
    assert said in error.message


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, {"state_dict": {3: "x"}}])
def test_what_holds_no_tensors_is_damaged(tmp_path, content):
    assert refusal(saved(tmp_path / "weights.pth", content)).code == "checkpoint_damaged"


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused_unopened(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("bomb/data.pkl", bytes(300 << 20))
    assert path.stat().st_size < 1 << 20
    error = refusal(path)
    assert error.code == "checkpoint_unsafe"
    assert "314,572,800 bytes" in error.message


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """Many entries that all point to the same stored bytes: no compression, and still a bomb."""
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bomb/data/0", bytes(1 << 20))
        first = archive.filelist[0]
        for index in range(1, 50):
            twin = zipfile.ZipInfo(f"bomb/data/{index}")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.file_size = twin.compress_size = first.file_size
            archive.filelist.append(twin)
        archive._didModify = True
    assert refusal(path).code == "checkpoint_unsafe"


def test_bytes_that_changed_are_found_by_the_check_sums_of_the_archive(tmp_path, droid_state):
    path = saved(tmp_path / "weights.pth", droid_state)
    check_archive(path, contents=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    read_weights(path)  # torch itself does not notice
    with pytest.raises(MegasamError, match="has changed since it was written"):
        check_archive(path, contents=True)


@pytest.mark.parametrize("harm", ["cut", "header length", "header text", "empty"])
def test_a_safetensors_file_with_a_wrong_header_is_damaged(tmp_path, droid_state, harm):
    path = tmp_path / "weights.safetensors"
    safetensors_torch.save_file(droid_state, path)
    data = path.read_bytes()
    harmed = {
        "cut": data[:-4],
        "header length": (10**15).to_bytes(8, "little") + data[8:],
        "header text": data[:9] + b"\xff\xff" + data[11:],
        "empty": b"",
    }[harm]
    path.write_bytes(harmed)
    assert refusal(path).code == "checkpoint_damaged"


def test_a_file_that_is_not_there_is_said_to_be_unreadable(tmp_path):
    assert refusal(tmp_path / "weights.pth").code == "checkpoint_unreadable"


def test_a_licence_without_commercial_use_is_refused_before_the_file_is_opened(tmp_path):
    large = find_checkpoint("depth_anything_v2_vitl")
    with pytest.raises(MegasamError) as error:
        load_network(large, tmp_path / "not there.pth", commercial_only=True)
    assert error.value.code == "checkpoint_not_commercial"
    assert "CC-BY-NC-4.0" in error.value.message
