"""Uploads: cut and resumed, never twice, a full disk, files that change underneath."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time

import pytest
from megasam_server.service.blobs import BlobStore
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import CHUNK_BYTES, FileContent
from megasam_shared.settings import SolveSettings
from megasam_shared.transfer import HashCache

from tests.server.service.conftest import MIB, random_file
from tests.server.service.test_faults import kill, start_server


def test_upload_of_a_killed_client_goes_on_where_it_stopped(tmp_path):
    movie = random_file(tmp_path / "plate.mov", 120)
    state = tmp_path / "state"
    process, address = start_server(state)
    # The client slows itself down, so that it is surely killed in the middle.
    script = """
import sys, time
from pathlib import Path
from megasam_shared.client import SolverClient
with SolverClient(sys.argv[1]) as client:
    client.connect(10)
    client.upload([Path(sys.argv[2])], lambda done, total: time.sleep(0.02))
"""
    uploader = subprocess.Popen([sys.executable, "-c", script, address, str(movie)])

    def arrived() -> int:
        return sum(part.stat().st_size for part in (state / "blobs").glob("*/*.part"))

    deadline = time.monotonic() + 20
    while arrived() < 10 * MIB:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    uploader.kill()
    uploader.wait()
    time.sleep(0.3)
    before = arrived()
    assert 10 * MIB <= before < 120 * MIB
    # The server may be another one by then, too.
    kill(process)
    process, address = start_server(state)
    with SolverClient(address) as client:
        client.connect(10)
        steps = []
        client.upload([movie], lambda done, total: steps.append(done))
        assert before < steps[0] <= before + CHUNK_BYTES
        assert steps[-1] == 120 * MIB
        digest = hashlib.sha256(movie.read_bytes()).hexdigest()
        stored = state / "blobs" / "shared" / digest[:2] / digest
        assert stored.stat().st_size == 120 * MIB
        assert arrived() == 0

        again = []
        client.upload([movie], lambda done, total: again.append(done))
        assert again == [120 * MIB]
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()


def test_file_that_is_remembered_is_not_read_again(tmp_path):
    file, cache = tmp_path / "plate.mov", tmp_path / "cache" / "hashes.json"
    file.write_bytes(b"first")
    os.utime(file, (1e9, 1e9))
    hashes = HashCache(cache)
    first = hashes.content_of(file)
    hashes.save()
    # Same size, same time: only one who reads it could tell.
    file.write_bytes(b"other")
    os.utime(file, (1e9, 1e9))
    assert HashCache(cache).content_of(file) == first
    os.utime(file, (2e9, 1e9 + 1))
    assert HashCache(cache).content_of(file).sha256 == hashlib.sha256(b"other").hexdigest()
    cache.write_text("not json")
    assert HashCache(cache).content_of(file).size == 5


def test_equal_frames_travel_once_and_all_arrive(client, tmp_path):
    files = []
    for number in range(5):
        files.append(tmp_path / f"black.{number}.png")
        files[-1].write_bytes(b"black")
    sent = []
    plate = client.upload(files, lambda done, total: sent.append(total))
    assert set(sent) == {5}
    result = client.wait(client.submit(plate, SolveSettings()).job, timeout=15)
    assert result.result["plate"] == [file.name for file in files]


def test_wrong_content_is_thrown_away_and_can_be_sent_again(tmp_path):
    store = BlobStore(tmp_path)
    content = FileContent(hashlib.sha256(b"right").hexdigest(), 5)
    assert store.missing([content])[0].offset == 0
    with pytest.raises(MegasamError) as caught:
        store.write(content.sha256, 0, b"wrong")
    assert caught.value.code == "upload_corrupt"
    assert store.path_of(content) is None
    assert store.missing([content])[0].offset == 0
    assert store.write(content.sha256, 3, b"ht") == 0  # a hole is not taken
    assert store.write(content.sha256, 0, b"rig") == 3
    assert store.write(content.sha256, 1, b"igh") == 4  # what is there is skipped
    assert store.write(content.sha256, 4, b"t") == 5
    assert store.path_of(content).read_bytes() == b"right"
    with pytest.raises(MegasamError) as caught:
        store.write("0" * 64, 0, b"never offered")
    assert caught.value.code == "upload_not_offered"
    store.close()


def test_file_that_changes_while_it_is_sent_is_sent_as_it_is_at_the_end(client, tmp_path):
    file = random_file(tmp_path / "plate.mov", 30)
    changed = []

    def change(done: int, total: int) -> None:
        if not changed:
            changed.append(True)
            with file.open("r+b") as opened:
                opened.seek(29 * MIB)
                opened.write(b"changed")

    media = client.upload([file], change)
    assert media.files[0].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


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
