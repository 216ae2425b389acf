"""Many clients at once. The figures of the full load are in ``tests/benchmarks/server_load.py``."""

from __future__ import annotations

import pytest

from tests.server.service.load import load_with_jobs, load_with_uploads, random_files
from tests.server.service.serving import Serving, files_below

MIB = 1 << 20
MOST_LATENCY = 0.2
MOST_GROWTH_MIB = 15


def test_every_job_of_many_clients_is_done_once(tmp_path):
    load = load_with_jobs(tmp_path, clients=6, jobs_each=2, seconds_each=0.25, processes=2)
    print(load)
    assert load.states == {"done": 12}
    assert (load.runs, load.repeated) == (12, 0)
    assert load.reports >= 9 and load.p50 < MOST_LATENCY


@pytest.mark.slow
def test_fifty_clients_with_three_hundred_jobs(tmp_path):
    load = load_with_jobs(tmp_path, clients=50, jobs_each=6, seconds_each=0.3)
    print(load)
    assert load.states == {"done": 300}
    assert (load.runs, load.repeated) == (300, 0)
    assert load.p99 < MOST_LATENCY
    assert load.late_mib - load.early_mib < MOST_GROWTH_MIB


def test_eight_clients_upload_at_the_same_time(tmp_path):
    files = random_files(tmp_path / "files", clients=8, files_each=2, bytes_each=4 * MIB)
    with Serving(tmp_path / "state") as server:
        load_with_uploads(server.address, files)
        stored = files_below(tmp_path / "state" / "blobs")
    # Whole, with the right hash, or they would not have these names.
    assert len(stored) == 16 and not any(name.endswith(".part") for name in stored)
