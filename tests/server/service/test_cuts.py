"""The network goes away in the middle of a transfer: it goes on where it was, nothing goes twice."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import CHUNK_BYTES
from megasam_shared.remote_solve import SolveWatcher, solve_remotely
from megasam_shared.settings import SolveSettings
from megasam_shared.transfer import WINDOW

from tests.server.service.cut_proxy import CutProxy

MIB = 1 << 20
# What may be on the way when the cable is pulled, and the messages around the bytes.
LOST_AT_MOST = (WINDOW + 2) * CHUNK_BYTES


@pytest.fixture
def proxy(server):
    with CutProxy(server.address) as running:
        yield running


@pytest.fixture
def cut_client(proxy):
    with SolverClient(proxy.address, name="test", patience=20) as connected:
        connected.connect(10)
        yield connected


def random_file(path: Path, mebibytes: int) -> Path:
    path.write_bytes(os.urandom(mebibytes * MIB))
    return path


class Cutter:
    """A progress call that pulls the cable once, half way, for some time."""

    def __init__(self, proxy: CutProxy, seconds: float) -> None:
        self._proxy, self._seconds = proxy, seconds
        self.cuts = 0
        self.seen: list[int] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append(done)
        if not self.cuts and done > total / 2:
            self.cuts += 1
            self._proxy.cut()
            threading.Timer(self._seconds, self._proxy.mend).start()


def test_upload_goes_on_after_a_cut(proxy, cut_client, tmp_path):
    files = [random_file(tmp_path / f"plate.{n}.dpx", 12) for n in range(3)]
    cutter = Cutter(proxy, 0.8)
    media = cut_client.upload(files, cutter)
    assert cutter.cuts == 1 and cutter.seen[-1] == 36 * MIB
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert [file.sha256 for file in media.files] == digests
    assert proxy.to_server < 36 * MIB + LOST_AT_MOST


def test_fetch_goes_on_after_a_cut(proxy, cut_client, tmp_path):
    plate = cut_client.upload([random_file(tmp_path / f"plate.{n}.exr", 10) for n in range(3)])
    job = cut_client.submit(plate, SolveSettings()).job
    result = cut_client.wait(job, timeout=20)
    cutter, before = Cutter(proxy, 0.8), proxy.to_client
    paths = cut_client.fetch(job, result.artefacts, tmp_path / "out", cutter)
    total = sum(artefact.size for artefact in result.artefacts)
    assert cutter.cuts == 1 and cutter.seen[-1] == total
    assert proxy.to_client - before < total + LOST_AT_MOST
    for path, artefact in zip(paths, result.artefacts, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == artefact.sha256
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".part")]
    # Everything is there: a second fetch asks for nothing.
    before = proxy.to_client
    assert cut_client.fetch(job, result.artefacts, tmp_path / "out") == paths
    assert proxy.to_client - before < CHUNK_BYTES


def test_patience_ends(proxy, tmp_path):
    with SolverClient(proxy.address, patience=0.5) as client:
        client.connect(10)
        with pytest.raises(MegasamError) as caught:
            client.upload([random_file(tmp_path / "plate.mov", 30)], Cutter(proxy, 5))
    assert caught.value.code == "server_lost"


def test_solve_survives_a_cut_while_the_job_runs(proxy, cut_client, make_plate, tmp_path):
    class Watcher(SolveWatcher):
        was_cut = False

        def on_progress(self, progress) -> None:
            if not self.was_cut:
                self.was_cut = True
                proxy.cut()
                threading.Timer(1.0, proxy.mend).start()

    folder = make_plate(frames=3)[0].parent
    watcher = Watcher()
    out = tmp_path / "out"
    finished = solve_remotely(cut_client, folder, out, SolveSettings(), watcher=watcher)
    assert watcher.was_cut and finished.usable
    assert (out / "camera_extrinsics.json").exists()


@pytest.mark.parametrize("plate, masks", [("movie", "frames"), ("frames", "movie")])
def test_movies_frames_and_masks_in_any_mix(client, make_plate, tmp_path, plate, masks):
    """One of them is there already from another job, and is not sent again."""
    movie = tmp_path / "clip.mov"
    movie.write_bytes(b"solve\0".ljust(3 * MIB, b"m"))
    given = {"movie": [movie], "frames": make_plate(frames=4, bytes_each=5000)}
    client.upload(given[masks])
    sent = []
    both = client.upload([*given[plate], *given[masks]], lambda done, total: sent.append(done))
    assert sent[0] >= sum(file.stat().st_size for file in given[masks])
    split = len(given[plate])
    job = client.submit(
        type(both)(files=both.files[:split]),
        SolveSettings(),
        masks=type(both)(files=both.files[split:]),
    )
    result = client.wait(job.job, timeout=20)
    assert result.state == "done" and len(result.result["plate"]) == split
