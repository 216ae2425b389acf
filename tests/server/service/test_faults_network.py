"""A network that goes away: a transfer goes on where it was, nothing goes twice."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import CHUNK_BYTES
from megasam_shared.remote_solve import SolveWatcher, solve_remotely
from megasam_shared.settings import SolveSettings
from megasam_shared.transfer import WINDOW

from tests.server.service.conftest import MIB, random_file
from tests.server.service.cut_proxy import CutProxy
from tests.server.service.serving import files_below

# What may be on the way when the cable is pulled, and the messages around the bytes.
LOST_AT_MOST = (WINDOW + 2) * CHUNK_BYTES
# The whole ten seconds with -m slow; one that is longer than a missed heartbeat otherwise.
GONE = [pytest.param(10.0, marks=pytest.mark.slow), 1.5]


class Outage:
    """A progress call that takes the network away once, half way, in one of two ways."""

    def __init__(self, proxy: CutProxy, how: str, seconds: float) -> None:
        self._proxy, self._take_away, self._seconds = proxy, getattr(proxy, how), seconds
        self.began = 0.0
        self.seen: list[int] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append(done)
        if not self.began and done > total / 2:
            self.began = time.monotonic()
            self._take_away()
            threading.Timer(self._seconds, self._proxy.mend).start()

    def check_was_waited_for(self) -> None:
        assert self.began and time.monotonic() - self.began > self._seconds


@pytest.fixture
def proxy(server):
    with CutProxy(server.address) as running:
        yield running


@pytest.fixture
def far_client(proxy):
    with SolverClient(proxy.address, name="far", patience=30) as connected:
        connected.connect(10)
        yield connected


@pytest.mark.parametrize("seconds", GONE)
@pytest.mark.parametrize("how", ["cut", "stall"])
def test_upload(server, proxy, far_client, tmp_path, how, seconds):
    files = [random_file(tmp_path / f"plate.{n}.dpx", 16) for n in range(3)]
    outage = Outage(proxy, how, seconds)
    media = far_client.upload(files, outage)
    outage.check_was_waited_for()
    assert outage.seen[-1] == 48 * MIB
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert [file.sha256 for file in media.files] == digests
    stored = {f"shared/{digest[:2]}/{digest}" for digest in digests}
    assert files_below(server._state / "blobs") == stored
    # What was there was not sent again.
    assert proxy.to_server < 48 * MIB + LOST_AT_MOST


@pytest.mark.parametrize("seconds", GONE)
@pytest.mark.parametrize("how", ["cut", "stall"])
def test_fetch(proxy, far_client, tmp_path, how, seconds):
    plate = far_client.upload([random_file(tmp_path / f"p.{n}.exr", 24) for n in range(2)])
    job = far_client.submit(plate, SolveSettings()).job
    result = far_client.wait(job, timeout=20)
    before = proxy.to_client
    outage = Outage(proxy, how, seconds)
    paths = far_client.fetch(job, result.artefacts, tmp_path / "out", outage)
    outage.check_was_waited_for()
    for path, artefact in zip(paths, result.artefacts, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == artefact.sha256
    assert len(files_below(tmp_path / "out")) == len(result.artefacts)
    total = sum(artefact.size for artefact in result.artefacts)
    assert outage.seen[-1] == total
    assert proxy.to_client - before < total + LOST_AT_MOST
    # Everything is there: a second fetch asks for nothing.
    before = proxy.to_client
    assert far_client.fetch(job, result.artefacts, tmp_path / "out") == paths
    assert proxy.to_client - before < CHUNK_BYTES


@pytest.mark.slow
def test_patience_ends(proxy, tmp_path):
    with SolverClient(proxy.address, patience=0.5) as client:
        client.connect(10)
        with pytest.raises(MegasamError) as caught:
            client.upload([random_file(tmp_path / "plate.mov", 30)], Outage(proxy, "cut", 5))
    assert caught.value.code == "server_lost"


def test_solve_survives_a_cut_while_the_job_runs(proxy, far_client, make_plate, tmp_path):
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
    finished = solve_remotely(far_client, folder, out, SolveSettings(), watcher=watcher)
    assert watcher.was_cut and finished.usable
    assert (out / "camera_extrinsics.json").exists()
