"""The engine megasam with the real networks and random weights, from checkpoint files to results."""

from __future__ import annotations

import contextlib
import json
import os
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.checkpoints.selection import select_checkpoints  # noqa: E402
from megasam_server.export.result_folder import ResultFolder  # noqa: E402
from megasam_server.pipeline import run  # noqa: E402
from megasam_server.pipeline.job import SolveJob  # noqa: E402
from megasam_server.pipeline.network_shelf import NetworkShelf, bytes_of  # noqa: E402
from megasam_server.pipeline.networks import CheckpointNetworks  # noqa: E402
from megasam_server.pipeline.progress import SilentProgress  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402
from megasam_shared.extrinsics import validate_extrinsics  # noqa: E402
from megasam_shared.settings import SolveSettings  # noqa: E402

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Write checkpoints of random weights and say in the table that these are published."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from random_checkpoints import checkpoints_from, random_checkpoint_folder

    def write(*names: str) -> contextlib.AbstractContextManager[None]:
        folder = tmp_path / "checkpoints"
        return checkpoints_from(folder, random_checkpoint_folder(folder, names))

    return write


def test_a_network_is_there_while_it_is_borrowed_and_its_weights_are_gone_after(checkpoints):
    with checkpoints("raft_things", "megasam"):
        networks = CheckpointNetworks(select_checkpoints(SolveSettings()))
        assert networks.identity("mono_depth") is None
        first = networks.identity("flow")
        assert "raft_things" in first
        with networks.borrow("flow") as network:
            weights = [weakref.ref(tensor.untyped_storage()) for tensor in network.parameters()]
            features = network.encode(torch.zeros(1, 3, 128, 128, dtype=torch.uint8))
            assert features.fmap.shape == (1, 256, 16, 16)
        assert all(storage() is None for storage in weights)
        assert {p.device.type for p in network.parameters()} == {"meta"}
        assert networks.identity("flow") == first


def test_a_shelf_keeps_networks_for_the_next_solve_until_their_file_changes(checkpoints):
    shelf = NetworkShelf()
    with checkpoints("raft_things", "megasam"):
        selection = select_checkpoints(SolveSettings())
        with CheckpointNetworks(selection, shelf=shelf).borrow("flow") as first:
            pass
        assert shelf.host_bytes == bytes_of(first)
        with CheckpointNetworks(selection, shelf=shelf).borrow("flow") as again:
            assert again is first and len(shelf) == 0
        path = selection.chosen["flow"].path
        os.utime(path, ns=(1, 1))
        with CheckpointNetworks(selection, shelf=shelf).borrow("flow") as changed:
            assert changed is not first
            assert {p.device.type for p in first.parameters()} == {"meta"}
        assert len(shelf) == 1


def test_a_licence_that_forbids_it_is_refused_even_when_the_network_waits(checkpoints):
    shelf = NetworkShelf()
    with checkpoints("raft_things", "megasam"):
        selection = select_checkpoints(SolveSettings())
        status = selection.chosen["flow"]
        limited = replace(status.checkpoint, commercial_use=False)
        selection.chosen["flow"] = replace(status, checkpoint=limited)
        with CheckpointNetworks(selection, shelf=shelf).borrow("flow"):
            pass
        networks = CheckpointNetworks(selection, commercial_only=True, shelf=shelf)
        with pytest.raises(MegasamError) as error, networks.borrow("flow"):
            pass
        assert error.value.code == "checkpoint_not_commercial"
        assert len(shelf) == 1


def test_a_stage_has_the_room_that_it_needs_before_its_network_comes(checkpoints, monkeypatch):
    """On a device that the tests do not have, so what the shelf is asked for counts."""
    asked = []
    shelf = NetworkShelf()
    with checkpoints("raft_things", "megasam"):
        networks = CheckpointNetworks(select_checkpoints(SolveSettings()), shelf=shelf)
        networks.room_needed = {"tracking": 5, "flow": 0, "video_depth": 7}.get
        names = {None: None, **{networks._key(s): s for s in ("tracking", "flow")}}
        monkeypatch.setattr(
            shelf, "make_room", lambda device, needed, key: asked.append((needed, names[key]))
        )
        with networks.borrow("tracking"):
            assert asked == [(5, "tracking")]
        # The flow takes nothing; what comes after it has no network.
        assert asked[1:] == [(7, None)]
        networks.make_room("video_depth")
        assert asked[2:] == [(7, None)]


def solve(room_clip, tmp_path, name: str, **settings) -> tuple[dict, ResultFolder]:
    job = SolveJob(
        room_clip.movie,
        None,
        SolveSettings(tracking_resolution=160, cvd_iterations=4, **settings),
        tmp_path / name / "work",
        tmp_path / name / "results",
        tmp_path / "stage cache",
    )
    job.work_dir.mkdir(parents=True)
    return run.run_job(job, SilentProgress()), ResultFolder(job.results_dir)


@pytest.mark.slow
def test_from_checkpoint_files_to_a_complete_result_folder(room_clip, checkpoints, tmp_path):
    """Random weights see nothing: what counts is that all of it runs, and that nobody is misled."""
    names = ("megasam", "raft_things", "depth_anything_v2_vits", "unidepth_v2_vits")
    with checkpoints(*names):
        try:
            result, folder = solve(
                room_clip, tmp_path, "a", engine="megasam", last_frame=4, metric_depth_every=4
            )
        except MegasamError as error:
            pytest.fail(f"{error.code}: {error.message}")
        quality = json.loads(folder.quality.read_text())
    extrinsics = json.loads(folder.camera_extrinsics.read_text())
    validate_extrinsics(extrinsics)
    assert extrinsics["source"] == "MegaSAM"
    assert extrinsics["num_frames"] == 4
    assert np.isfinite(extrinsics["matrix_c2w"]).all()
    for images in (folder.depth, folder.masks):
        assert len(list(images.iterdir())) == 4
    assert result["quality"]["verdict"] != "good", "nobody can solve with random weights"
    assert {entry["licence"] for entry in quality["checkpoint_licences"]} >= {"CC-BY-NC-4.0"}
    print(result["status"], result["quality"]["reasons"], result["timings"]["seconds"])
