"""Stage outputs are used again exactly when everything that they depend on is the same."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from megasam_server.pipeline import classical_engine, footage
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.stage_cache import StageCache, entries, identity_of, key_of
from megasam_server.tracking.solution import TrackingSolution
from megasam_shared.settings import SolveSettings


class Silence:
    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        pass

    def skip(self, stage: str, reason: str) -> None:
        pass

    def preview(self, stage: str, frame: int, jpeg: bytes) -> None:
        pass


class Noticing:
    """Settings that notice what is read of them."""

    def __init__(self, settings: SolveSettings) -> None:
        self._settings = settings
        self.read: set[str] = set()

    def __getattr__(self, name: str):
        self.read.add(name)
        return getattr(self._settings, name)


@pytest.fixture
def track(tmp_path, room_clip, monkeypatch):
    """Run the stages that are kept as the next job would; says which of them were computed."""
    computed: list[str] = []
    noticed: list[Noticing] = []
    decode, solve_cameras = footage.decode, classical_engine.solve_cameras

    def noted_decode(*arguments):
        computed.append("plate")
        return decode(*arguments)

    def noted_solve_cameras(frames, masks, plate, settings, progress):
        computed.append("tracking")
        noticed.append(Noticing(settings))
        return solve_cameras(frames, masks, plate, noticed[-1], progress)

    monkeypatch.setattr(footage, "decode", noted_decode)
    monkeypatch.setattr(classical_engine, "solve_cameras", noted_solve_cameras)
    folders = (tmp_path / f"work{number}" for number in itertools.count())

    def track(settings: SolveSettings) -> tuple[list[str], set[str], TrackingSolution, Path]:
        work = next(folders)
        work.mkdir()
        job = SolveJob(room_clip.movie, None, settings, work, tmp_path, tmp_path / "cache")
        cache = StageCache(job.cache_dir)
        computed.clear()
        plate = footage.read_footage(footage.plate_of(job), job, cache, Silence())
        solution = classical_engine.track(job, plate, cache, Silence())
        read = set().union(*(each.read for each in noticed))
        return list(computed), read, solution, work

    return track


def test_another_depth_setting_does_not_repeat_the_tracking(track):
    settings = SolveSettings(engine="classical", quality_preset="fast", last_frame=6)
    computed, read, first, work = track(settings)
    assert computed == ["plate", "tracking"]
    # The key of the tracking must name everything that the tracking looks at.
    assert read <= {"focal_px_at", "optimize_focal"}

    other_depth = replace(settings, run_cvd=not settings.run_cvd, cvd_iterations=7)
    computed, _, again, other_work = track(other_depth)
    assert computed == []
    assert (other_work / "frames.rgb").samefile(work / "frames.rgb")
    assert_same(again, first)

    assert track(replace(settings, focal_length_px=430.0))[0] == ["tracking"]
    assert track(replace(settings, last_frame=5))[0] == ["plate", "tracking"]


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last bit, type by type, NaN where the other has NaN."""
    assert type(one) is type(other)
    if is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def test_entry_is_used_whole_or_not_at_all(tmp_path):
    cache = StageCache(tmp_path / "cache")
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    (source / "a.npz").write_bytes(b"first file")
    (source / "b.rgb").write_bytes(b"second file")
    key = key_of("plate", number=1)
    assert not cache.reuse("plate", key, work)
    cache.keep("plate", key, [source / "a.npz", source / "b.rgb"])
    assert not cache.reuse("plate", key_of("plate", number=2), work)
    assert not cache.reuse("masks", key, work)
    assert cache.reuse("plate", key, work)
    assert (work / "b.rgb").read_bytes() == b"second file"

    # A power cut can leave a name without content.
    (entry,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(work)
    work.mkdir()
    (entry / "b.rgb").unlink()
    (entry / "b.rgb").write_bytes(b"")
    assert not cache.reuse("plate", key, work)
    assert not list(work.iterdir()) and not entry.exists()

    # Users of an entry do not mind when it is removed.
    cache.keep("plate", key, [source / "a.npz"])
    assert cache.reuse("plate", key, work)
    shutil.rmtree(tmp_path / "cache")
    assert (work / "a.npz").read_bytes() == b"first file"


def test_two_workers_that_finish_the_same_leave_one_entry(tmp_path):
    cache = StageCache(tmp_path / "cache")
    files = []
    for number in range(8):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.append(folder / "a")
        files[-1].write_bytes(b"same")
    threads = [threading.Thread(target=cache.keep, args=("plate", "k", [file])) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.name for entry, *_ in entries(tmp_path / "cache")] == ["plate-k"]


def test_cache_that_cannot_be_written_keeps_nothing_and_stops_nothing(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    (tmp_path / "a").write_bytes(b"x")
    cache = StageCache(tmp_path / "cache")
    cache.keep("plate", "key", [tmp_path / "a"])
    assert not cache.reuse("plate", "key", tmp_path)
    StageCache(None).keep("plate", "key", [tmp_path / "a"])
    assert not StageCache(None).reuse("plate", "key", tmp_path)


def test_links_to_one_upload_are_the_same_plate_and_changed_files_are_not(tmp_path):
    for folder in ("upload", "job1", "job2"):
        (tmp_path / folder).mkdir()
    for number in (1, 2):
        name = f"p.{number}.png"
        (tmp_path / "upload" / name).write_bytes(b"x")
        for job in ("job1", "job2"):
            os.link(tmp_path / "upload" / name, tmp_path / job / name)
    first = identity_of(tmp_path / "job1")
    assert identity_of(tmp_path / "job2") == first
    assert identity_of(tmp_path / "job1" / "p.1.png") == first
    changed = tmp_path / "job1" / "p.2.png"
    changed.unlink()
    changed.write_bytes(b"y")
    assert identity_of(tmp_path / "job1") != first
