"""Disks without room: the job or the upload fails with a reason, and nothing else does."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from megasam_shared.client import SolverClient
from megasam_shared.connection import Connection
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import CHUNK_BYTES, Chunk, FileContent, Offer
from megasam_shared.settings import SolveSettings

from tests.server.service.conftest import MIB, random_file
from tests.server.service.serving import Serving, files_below, wait_for


@pytest.fixture
def small_disk(mount_disk) -> Path:
    return mount_disk(64)


def limited(mebibytes: int) -> list[str]:
    """A command that lets no process write a larger file: a full disk for whoever is not root."""
    return ["bash", "-c", f'ulimit -f {mebibytes * 1024}; exec "$@"', "bash"]


def leftovers(state: Path, job: str) -> set[str]:
    return files_below(state / "jobs" / job) - {"job.json", "worker.log", "result.msgpack"}


def test_stage_that_fills_the_disk_fails_its_job_and_no_other(small_disk, make_plate):
    state = small_disk / "state"
    with Serving(state) as server, SolverClient(server.address) as client:
        client.connect(10)
        good = client.submit(client.upload(make_plate()), SolveSettings()).job
        assert client.wait(good, timeout=15).state == "done"
        free = os.statvfs(small_disk).f_bavail
        plates = [client.upload(make_plate("fill")), client.upload(make_plate(frames=2))]
        full, following = (client.submit(plate, SolveSettings()).job for plate in plates)
        result = client.wait(full, timeout=15)
        assert (result.state, result.error.code) == ("failed", "server_disk_full")
        assert result.error.hint
        assert client.wait(following, timeout=15).state == "done"
        wait_for(lambda: not leftovers(state, full))
        # The room that was given up to write this down is taken again when there is plenty.
        assert os.statvfs(small_disk).f_bavail > free - 2 * MIB // 4096
        server.kill()
    with Serving(state) as server, SolverClient(server.address) as client:
        client.connect(10)
        states = {info.job: info.state for info in client.list_jobs()}
        assert states == {good: "done", full: "failed", following: "done"}
        assert client.attach(full).error.code == "server_disk_full"


def test_stage_that_may_not_write_more_fails_its_job_and_no_other(make_plate, tmp_path):
    """The same for whoever cannot mount a disk."""
    state = tmp_path / "state"
    with (
        Serving(state, before=limited(20)) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        full = client.submit(client.upload(make_plate("fill")), SolveSettings()).job
        result = client.wait(full, timeout=15)
        assert (result.state, result.error.code) == ("failed", "server_disk_full")
        following = client.submit(client.upload(make_plate()), SolveSettings()).job
        assert client.wait(following, timeout=15).state == "done"
        wait_for(lambda: not leftovers(state, full))


def test_upload_that_would_not_fit_is_refused_before_it_begins(small_disk, tmp_path):
    with Serving(small_disk / "state") as server, SolverClient(server.address) as client:
        client.connect(10)
        with pytest.raises(MegasamError) as caught:
            client.upload([random_file(tmp_path / "plate.mov", 60)])
        assert caught.value.code == "server_disk_full" and caught.value.hint
        assert files_below(small_disk / "state" / "blobs") == set()


def test_disk_that_fills_during_an_upload(small_disk, make_plate):
    state = small_disk / "state"
    data = os.urandom(CHUNK_BYTES)
    with Serving(state) as server, SolverClient(server.address) as client:
        client.connect(10)
        connection = Connection(server.address)
        connection.wait_until_connected(10)
        whole = FileContent(hashlib.sha256(b"never completed").hexdigest(), 30 * MIB)
        connection.request(Offer, files=[whole])
        connection.request(Chunk, sha256=whole.sha256, offset=0, data=data)
        filler = small_disk / "filler"
        with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(data)
        with pytest.raises(MegasamError) as caught:
            for index in range(1, 30):
                offset = index * CHUNK_BYTES
                connection.request(Chunk, sha256=whole.sha256, offset=offset, data=data)
        assert caught.value.code == "server_disk_full"
        assert files_below(state / "blobs") == set()
        connection.close()
        filler.unlink()
        job = client.submit(client.upload(make_plate()), SolveSettings()).job
        assert client.wait(job, timeout=15).state == "done"


def test_upload_that_may_not_be_written_further(make_plate, tmp_path):
    state = tmp_path / "state"
    with (
        Serving(state, before=limited(20)) as server,
        SolverClient(server.address) as client,
    ):
        client.connect(10)
        with pytest.raises(MegasamError) as caught:
            client.upload([random_file(tmp_path / "plate.mov", 30)])
        assert caught.value.code == "server_disk_full"
        assert files_below(state / "blobs") == set()
        job = client.submit(client.upload(make_plate()), SolveSettings()).job
        assert client.wait(job, timeout=15).state == "done"


def test_client_without_room_for_the_results(server, client, small_disk, make_plate, tmp_path):
    plate = client.upload(make_plate(frames=3, bytes_each=25 * MIB))
    result = client.wait(client.submit(plate, SolveSettings()).job, timeout=20)
    with pytest.raises(MegasamError) as caught:
        client.fetch(result.job, result.artefacts, small_disk / "out")
    assert caught.value.code == "output_not_writable"
    # The results are still there; what arrived is not fetched again.
    assert len(client.fetch(result.job, result.artefacts, tmp_path / "out")) == 6 - 1


@pytest.mark.slow
def test_real_solve_on_a_full_disk(small_disk, room_clip):
    """The solver itself: the decoded plate alone would take 9 MiB, and the disk has less."""
    state = small_disk / "state"
    with Serving(state, job_function=None) as server, SolverClient(server.address) as client:
        client.connect(10)
        plate = client.upload([room_clip.movie])
        filler = small_disk / "filler"
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler.write_bytes(bytes(free - 5 * MIB))
        job = client.submit(plate, SolveSettings(engine="classical")).job
        result = client.wait(job, timeout=120)
        assert (result.state, result.error.code) == ("failed", "disk_full")
        wait_for(lambda: not leftovers(state, job))
        filler.unlink()
