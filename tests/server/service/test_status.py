"""How a server is: what each client may see of it, and that all it counts is for monitoring, too."""

from __future__ import annotations

import urllib.request

from megasam_server.service import counters
from megasam_server.service.metrics import COUNTERS
from megasam_shared.settings import SolveSettings

from tests.server.service.conftest import pids_in
from tests.server.service.curve_server import CurveStudio
from tests.server.service.serving import wait_for


def test_clients_see_numbers_of_all_and_jobs_of_their_own(tmp_path, make_plate):
    note = tmp_path / "pids"
    with CurveStudio(tmp_path, metrics="127.0.0.1:0", gpus=["cpu"]) as studio:
        anna, ben = (studio.client(studio.keys(name)) for name in ("anna", "ben"))
        job = anna.submit(anna.upload(make_plate(f"hang {note}", frames=1)), SolveSettings()).job
        pids_in(note)
        wait_for(lambda: [run.stage for run in anna.server_status().jobs] == ["tracking"])
        (run,) = anna.server_status().jobs
        assert (run.job, run.done, run.total) == (job, 1, 4) and 0 < run.fraction < 1
        seen = ben.server_status()
        assert seen.jobs == [] and (seen.running, seen.queued) == (1, 0)
        assert seen.workers == "the CPU"
        # The monitoring has no client's name, key or plate in it.
        page = urllib.request.urlopen(f"http://{studio.server.metrics_address}/metrics").read()
        text = page.decode()
        assert 'megasam_jobs{state="running"} 1.0' in text
        assert "anna" not in text and job not in text and "plate" not in text
        anna.cancel(job)


def test_all_that_is_counted_is_for_monitoring():
    names = {value for name, value in vars(counters).items() if name.isupper()}
    assert names == set(COUNTERS)
