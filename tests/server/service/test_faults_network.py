"""A network that goes away for ten seconds in the middle of a transfer."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from megasam_shared.client import SolverClient
from megasam_shared.protocol import CHUNK_BYTES
from megasam_shared.settings import SolveSettings
from megasam_shared.transfer import WINDOW

from tests.server.service.cut_proxy import CutProxy
from tests.server.service.serving import files_below

MIB = 1 << 20
LOST_AT_MOST = (WINDOW + 2) * CHUNK_BYTES
# The whole ten seconds with -m slow; one that is longer than a missed heartbeat otherwise.
GONE = [pytest.param(10.0, marks=pytest.mark.slow), 1.5]


class Outage:
    """A progress call that takes the network away once, half way, in one of two ways."""

    def __init__(self, proxy: CutProxy, how: str, seconds: float) -> None:
        self._proxy, self._take_away, self._seconds = proxy, getattr(proxy, how), seconds
        self.began = 0.0

    def __call__(self, done: int, total: int) -> None:
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


def random_file(path: Path, mebibytes: int) -> Path:
    path.write_bytes(os.urandom(mebibytes * MIB))
    return path


@pytest.mark.parametrize("seconds", GONE)
@pytest.mark.parametrize("how", ["cut", "stall"])
def test_upload(server, proxy, far_client, tmp_path, how, seconds):
    movie = random_file(tmp_path / "plate.mov", 48)
    outage = Outage(proxy, how, seconds)
    media = far_client.upload([movie], outage)
    outage.check_was_waited_for()
    digest = hashlib.sha256(movie.read_bytes()).hexdigest()
    assert [file.sha256 for file in media.files] == [digest]
    assert files_below(server._state / "blobs") == {f"shared/{digest[:2]}/{digest}"}
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
    assert proxy.to_client - before < total + LOST_AT_MOST
