"""What stays in the state folder, how long, and how much of it."""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from megasam_server.pipeline.stage_cache import StageCache
from megasam_server.service.jobs import JobStore
from megasam_server.service.options import StorageLimits
from megasam_server.service.state_index import INDEX_NAME, open_index
from megasam_server.service.storage import Storage, upload_folder
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import Artefact, FileContent, Result
from megasam_shared.settings import SolveSettings

from tests.server.service.conftest import pids_in, wait_until_gone
from tests.server.service.serving import Serving, files_below, gc, wait_for

HOUR, DAY = 3600.0, 24 * 3600.0


class Clocks:
    """A wall clock and a monotonic one that tests set."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.steady = 1000.0

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


class State:
    """A state folder without a server, by clocks of its own."""

    def __init__(self, folder: Path, limits: StorageLimits) -> None:
        self.folder = folder
        self.clocks = Clocks()
        self.jobs = JobStore(folder, lambda: self.clocks.wall, lambda: self.clocks.steady)
        self.storage = Storage(folder, limits, self.jobs.clock.now, lambda: self.clocks.wall)

    def upload(self, data: bytes, owner: str = "anna") -> FileContent:
        content = FileContent(hashlib.sha256(data).hexdigest(), len(data))
        store = self.storage.uploads_of(owner)
        if store.missing([content]):
            store.write(content.sha256, 0, data)
        return content

    def add_job(self, content: FileContent, owner: str = "anna") -> str:
        job = self.jobs.new_id()
        folder = self.jobs.folder_of(job)
        folder.plate.mkdir(parents=True)
        self.storage.uploads_of(owner).place(content, folder.plate / "plate.mov")
        self.jobs.add(job, owner, secrets.token_hex(16), "", folder.plate, None, {})
        return job

    def finish_job(self, job: str, result_bytes: int = 100) -> None:
        self.jobs.start(job)
        folder = self.jobs.folder_of(job)
        folder.make_ready()
        (folder.results / "depth.exr").write_bytes(b"r" * result_bytes)
        artefacts = [Artefact("depth.exr", result_bytes, "0" * 64)]
        self.jobs.finish(Result(0, job, "done", {}, artefacts))
        folder.clean(keep_results=True)

    def blobs(self, owner: str = "anna") -> int:
        return len(files_below(self.folder / "blobs" / upload_folder(owner)))


@pytest.fixture
def make_state(tmp_path):
    made = []

    def make(**limits) -> State:
        made.append(State(tmp_path / "state", StorageLimits(**limits)))
        return made[-1]

    yield make
    for state in made:
        state.storage.close()
        state.jobs.close()


def test_what_nobody_uses_goes_and_what_jobs_need_stays(make_state):
    state = make_state(ttl=DAY)
    old, used = state.upload(b"old"), state.upload(b"used by a job")
    waiting, over = state.add_job(used), state.add_job(old)
    running = state.add_job(used)
    state.jobs.start(running)
    state.finish_job(over, 70)
    state.clocks.pass_time(DAY / 2)
    fresh = state.upload(b"fresh")
    assert state.storage.collect().jobs == 0
    state.clocks.pass_time(DAY / 2 + 1)
    collected = state.storage.collect()
    assert (collected.jobs, collected.uploads, collected.bytes) == (1, 1, 70 + len(b"old"))
    store = state.storage.uploads_of("anna")
    assert store.path_of(old) is None
    assert store.path_of(used) and store.path_of(fresh)
    assert [info.job for info in state.jobs.newest()] == [running, waiting]
    assert not state.jobs.folder_of(over).path.exists()
    for job in (waiting, running):
        assert (state.jobs.folder_of(job).plate / "plate.mov").read_bytes() == b"used by a job"
    # Not even ten years later.
    state.clocks.pass_time(3650 * DAY)
    state.storage.collect()
    assert {info.job for info in state.jobs.newest()} == {running, waiting}
    assert store.path_of(used)


def test_offering_a_file_again_keeps_it(make_state):
    state = make_state(ttl=DAY)
    content = state.upload(b"plate")
    for _ in range(3):
        state.clocks.pass_time(DAY * 0.9)
        assert state.storage.uploads_of("anna").missing([content]) == []
        assert state.storage.collect().uploads == 0


def test_half_sent_files_go_after_a_day_even_where_everything_else_stays(make_state):
    state = make_state(ttl=None)
    whole = state.upload(b"whole")
    store = state.storage.uploads_of("anna")
    half = FileContent(hashlib.sha256(b"half sent").hexdigest(), 9)
    store.missing([half])
    store.write(half.sha256, 0, b"half")
    state.clocks.pass_time(DAY - 1)
    assert state.storage.collect().parts == 0
    assert store.missing([half])[0].offset == 4  # which is a use
    state.clocks.pass_time(DAY + 1)
    assert state.storage.collect().parts == 1
    assert store.path_of(whole) and state.blobs() == 1
    # The client begins again, as it would anywhere.
    assert store.missing([half])[0].offset == 0
    assert store.write(half.sha256, 0, b"half sent") == 9


def test_quota_of_a_client_makes_room_first_and_refuses_then(make_state):
    state = make_state(client_bytes=1000)
    unused = state.upload(b"u" * 400)
    job = state.add_job(state.upload(b"j" * 300))
    state.clocks.pass_time(HOUR)
    # Too much, were the file without a job to stay.
    state.upload(b"n" * 600)
    store = state.storage.uploads_of("anna")
    assert store.path_of(unused) is None
    coming = FileContent("a" * 64, 200)
    with pytest.raises(MegasamError) as caught:
        store.missing([coming])
    assert caught.value.code == "quota_exceeded" and caught.value.hint
    # Refused is refused: it can be asked again and again, and takes nothing from others.
    with pytest.raises(MegasamError):
        store.missing([coming])
    state.upload(b"b" * 900, owner="ben")
    # Results count as well; when the job is over, its plate need not stay.
    state.finish_job(job, 350)
    state.clocks.pass_time(HOUR)
    assert store.missing([coming])[0].offset == 0


def test_limit_for_all_takes_stage_outputs_first_and_refuses_then(make_state, tmp_path):
    state = make_state(all_bytes=1000)
    output = tmp_path / "frames.rgb"
    output.write_bytes(b"f" * 300)
    StageCache(state.folder / "cache").keep("plate", "key", [output])
    output.unlink()
    state.upload(b"a" * 500)
    state.clocks.pass_time(HOUR)
    state.upload(b"b" * 450, owner="ben")
    assert files_below(state.folder / "cache") == set()
    assert state.blobs() == 1 and state.blobs("ben") == 1
    state.clocks.pass_time(HOUR)
    state.upload(b"c" * 100, owner="cleo")
    assert state.blobs() == 0 and state.blobs("ben") == 1
    with pytest.raises(MegasamError) as caught:
        state.storage.uploads_of("ben").missing([FileContent("c" * 64, 1001)])
    assert caught.value.code == "storage_exceeded"


def test_stage_outputs_are_limited_and_unused_ones_go(make_state, tmp_path):
    state = make_state(cache_bytes=1000)
    cache = StageCache(state.folder / "cache")
    for number in range(4):
        output = tmp_path / f"{number}.rgb"
        output.write_bytes(b"f" * 400)
        cache.keep("plate", f"key{number}", [output])
        mark = state.folder / "cache" / f"plate-key{number}" / "complete.json"
        os.utime(mark, (0, state.clocks.wall + number))
        output.unlink()
    unfinished = state.folder / "cache" / ".unfinished-plate-1-abcd"
    unfinished.mkdir()
    (unfinished / "0.rgb").write_bytes(b"f")
    os.utime(unfinished, (0, state.clocks.wall - DAY))
    collected = state.storage.collect()
    assert collected.stage_outputs == 3
    assert {path.name for path in (state.folder / "cache").iterdir()} == {
        "plate-key2",
        "plate-key3",
    }


def test_files_that_the_index_does_not_know_are_taken_up(make_state):
    state = make_state(ttl=DAY)
    content = state.upload(b"plate")
    with sqlite3.connect(state.folder / INDEX_NAME) as database:
        database.execute("DELETE FROM uploads")
    database.close()
    (state.folder / "blobs" / "ab").mkdir()  # where version 1 kept uploads
    (state.folder / "blobs" / "stray.part").touch()
    assert state.storage.collect().uploads == 0
    assert state.storage.uploads_of("anna").path_of(content)
    assert {p.name for p in (state.folder / "blobs").iterdir()} == {upload_folder("anna")}
    state.clocks.pass_time(DAY + 1)
    assert state.storage.collect().uploads == 1


def test_a_file_is_never_promised_and_removed_at_once(make_state):
    """Offers and the removal of what is old, at the same time: what an offer says is there, is."""
    state = make_state(ttl=1.0)
    contents = [state.upload(b"%d" % number) for number in range(200)]
    store = state.storage.uploads_of("anna")
    state.clocks.pass_time(10)
    stop = threading.Event()

    def remove() -> None:
        while not stop.is_set():
            state.storage.collect()

    remover = threading.Thread(target=remove)
    remover.start()
    broken = []
    for content in contents:
        if not store.missing([content]) and store.path_of(content) is None:
            broken.append(content)
    stop.set()
    remover.join()
    assert not broken


def test_layout_of_the_first_version_is_carried_over(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    database = sqlite3.connect(state / INDEX_NAME)
    database.executescript(FIRST_LAYOUT)
    database.close()
    for job in ("1" * 32, "2" * 32):
        (state / "jobs" / job).mkdir(parents=True)
    jobs = JobStore(state)
    try:
        done, queued = jobs.get("1" * 32), jobs.get("2" * 32)
        assert (done.state, done.attempts, done.priority, done.owner) == ("done", 1, 50, "")
        assert queued.state == "queued" and queued.settings == {"engine": "auto"}
        assert jobs.next_queued() == queued
        assert jobs.find_submission("", "b" * 32) == queued
    finally:
        jobs.close()


FIRST_LAYOUT = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    submission TEXT NOT NULL UNIQUE, name TEXT NOT NULL, state TEXT NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, starts INTEGER NOT NULL DEFAULT 0,
    request TEXT NOT NULL, error TEXT
);
CREATE INDEX jobs_by_state ON jobs (state, number);
INSERT INTO jobs VALUES (1, '11111111111111111111111111111111', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
    'sh010', 'done', 1.0, 2.0, 3.0, 1, '{"plate": "/p", "masks": null, "settings": {}}', NULL);
INSERT INTO jobs VALUES (2, '22222222222222222222222222222222', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',
    'sh020', 'queued', 4.0, NULL, NULL, 0,
    '{"plate": "/p", "masks": null, "settings": {"engine": "auto"}}', NULL);
PRAGMA user_version = 1;
"""


def test_layout_of_a_newer_version_is_left_alone(tmp_path):
    tmp_path.joinpath("state").mkdir()
    open_index(tmp_path / "state").close()
    with sqlite3.connect(tmp_path / "state" / INDEX_NAME) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(MegasamError) as caught:
        JobStore(tmp_path / "state")
    assert caught.value.code == "state_unreadable" and "newer version" in caught.value.message
    assert {path.name for path in (tmp_path / "state").iterdir()} >= {INDEX_NAME}


def test_gc_beside_a_running_server_and_without_one(make_plate, tmp_path):
    state, note = tmp_path / "state", tmp_path / "pids"
    at_once = ("--keep-days", "1e-6")
    with Serving(state) as server, SolverClient(server.address) as client:
        client.connect(10)
        done = client.submit(client.upload(make_plate()), SolveSettings()).job
        client.wait(done, timeout=15)
        other = make_plate(f"hang {note}", frames=2, bytes_each=500)
        running = client.submit(client.upload(other), SolveSettings()).job
        pids = pids_in(note)
        client.upload(make_plate("never submitted", frames=1))
        assert gc(state).startswith("Removed 0 jobs, 0 uploads")
        said = gc(state, *at_once)
        assert said.startswith("Removed 1 jobs, 4 uploads"), said
        assert [info.job for info in client.list_jobs()] == [running]
        with pytest.raises(MegasamError) as caught:
            client.attach(done)
        assert caught.value.code == "job_unknown"
        assert len(files_below(state / "jobs" / running / "plate")) == 2
        assert not list(state.glob("gc-*"))
    wait_until_gone(pids, timeout=2)
    # Queued again by the server that ended: nothing of it goes.
    assert gc(state, *at_once).startswith("Removed 0 jobs, 0 uploads")
    assert len(files_below(state / "jobs" / running / "plate")) == 2
    note.unlink()
    with Serving(state) as server, SolverClient(server.address) as client:
        client.connect(10)
        wait_for(note.exists)
        client.cancel(running)
        wait_until_gone(pids_in(note), timeout=2)
        time.sleep(0.2)  # more than what is kept at once
    wait_for(lambda: not files_below(state / "jobs" / running / "plate"))
    assert gc(state, *at_once).startswith("Removed 1 jobs, 2 uploads")
    assert files_below(state / "blobs") == set() and not list((state / "jobs").iterdir())
