"""A solve while it runs: signs of life, cancelling in any stage, memory that stays level."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import psutil
import pytest
from megasam_server.media.movie_writer import write_movie
from megasam_server.service.private import PrivateServer
from megasam_shared.client import SolverClient
from megasam_shared.protocol import JobChanged, Progress, Result
from megasam_shared.settings import SolveSettings

# What the product promises, plus the time that a loaded machine takes to wake up a test.
MOST_SILENCE = 1.0 + 0.5
MOST_CANCEL_SECONDS = 2.0
STAGES = ("plate", "tracking", "flow", "video_depth", "conversion")


def back_and_forth(rgb: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """``count`` frames of a camera that walks the clip's path to and fro."""
    return islice(cycle([*range(len(rgb)), *range(len(rgb) - 2, 0, -1)]), count)


def write_long_clip(room_clip, path: Path, count: int) -> Path:
    order = back_and_forth(room_clip.rgb, count)
    write_movie(path, (room_clip.rgb[index] for index in order), 24)
    return path


@pytest.fixture
def client() -> Iterator[SolverClient]:
    with PrivateServer() as server, SolverClient(server.address, name="test") as connected:
        connected.connect(20)
        yield connected


def events_of(client: SolverClient, job: str, timeout: float) -> Iterator[tuple[float, object]]:
    """Everything that comes about a job with its time of arrival; ends after its result."""
    deadline = time.monotonic() + timeout
    client.attach(job)
    while time.monotonic() < deadline:
        for event in client.poll():
            about = event.job.job if isinstance(event, JobChanged) else getattr(event, "job", None)
            if about == job:
                yield time.monotonic(), event
                if isinstance(event, Result):
                    return
        time.sleep(0.01)
    raise TimeoutError(f"job {job} did not end within {timeout} s")


def first_report_of(client: SolverClient, job: str, stage: str) -> None:
    for _, event in events_of(client, job, 300):
        if isinstance(event, Progress) and event.stage == stage:
            return
        assert not isinstance(event, Result), f"the job ended before stage {stage}: {event.error}"


def cancel_in(client: SolverClient, stage: str, job: str, next_job: str) -> float:
    """Seconds from cancelling ``job`` in ``stage`` until a worker has taken ``next_job``."""
    first_report_of(client, job, stage)
    client.attach(next_job)
    asked = time.monotonic()
    client.cancel(job)
    for at, event in events_of(client, next_job, 30):
        is_start = isinstance(event, JobChanged) and event.job.state == "running"
        if is_start or isinstance(event, Progress):
            return at - asked
    raise AssertionError("the next job did not start")


def test_cancelling_while_tracking_frees_the_worker_for_the_next_job(client, room_clip):
    plate = client.upload([room_clip.movie])
    job, next_job = (client.submit(plate, SolveSettings()).job for _ in range(2))
    assert cancel_in(client, "tracking", job, next_job) < MOST_CANCEL_SECONDS
    assert client.attach(job).state == "cancelled"
    client.cancel(next_job)


@pytest.mark.slow
def test_cancelling_in_any_stage_frees_the_worker(client, room_clip):
    plate = client.upload([room_clip.movie])
    job = client.submit(plate, SolveSettings()).job
    seconds = {}
    for stage in STAGES:
        next_job = client.submit(plate, SolveSettings()).job
        seconds[stage] = cancel_in(client, stage, job, next_job)
        job = next_job
    client.cancel(job)
    print(seconds)
    assert max(seconds.values()) < MOST_CANCEL_SECONDS, seconds


@pytest.mark.slow
def test_progress_comes_at_least_once_a_second(client, room_clip, tmp_path):
    movie = write_long_clip(room_clip, tmp_path / "long.mp4", 120)
    job = client.submit(client.upload([movie]), SolveSettings()).job
    arrived = [
        (at, event)
        for at, event in events_of(client, job, 600)
        if isinstance(event, Progress) and event.stage
    ]
    silences = np.diff([at for at, _ in arrived])
    moved = [at for at, event in arrived if event.fraction < 1.0]
    print(f"{len(arrived)} reports in {moved[-1] - moved[0]:.0f} s, longest {silences.max():.2f} s")
    assert silences.max() < MOST_SILENCE
    assert {event.stage for _, event in arrived} >= set(STAGES)


class PeakMemory:
    """Largest sum of the resident memory of a process' descendants, MiB, while the block runs."""

    def __init__(self, process: psutil.Process) -> None:
        self.mib = 0.0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            total = 0
            for child in self._process.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.mib = max(self.mib, total / 2**20)


@pytest.mark.slow
def test_four_times_the_frames_take_the_same_memory(room_clip, tmp_path):
    program = shutil.which("megasam", path=str(Path(sys.executable).parent))
    peaks = {}
    for count in (60, 240):
        movie = write_long_clip(room_clip, tmp_path / f"{count}.mp4", count)
        command = [program, "solve", str(movie), "--out", str(tmp_path / f"out{count}"), "--json"]
        with (
            (tmp_path / "events").open("wb") as events,
            subprocess.Popen(command, stdout=events, env=dict(os.environ)) as process,
            PeakMemory(psutil.Process(process.pid)) as peak,
        ):
            assert process.wait(900) in (0, 1)
        peaks[count] = peak.mib
    print(peaks)
    assert peaks[240] < 1.3 * peaks[60], peaks
