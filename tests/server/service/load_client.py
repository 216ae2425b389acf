"""A process with several clients of one server: ``python -m tests.server.service.load_client``.

    jobs ADDRESS CLIENTS JOBS SECONDS COUNTED FOLDER   submit JOBS small plates each, fetch results
    upload ADDRESS FILE...                             bring files to the server

Waits for a line on standard input before it begins, and prints what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from megasam_shared.client import SolverClient
from megasam_shared.protocol import Progress, Result
from megasam_shared.settings import SolveSettings


class LoadClient:
    """One client that submits jobs, all at once, and waits for their ends."""

    def __init__(self, address: str, number: str, folder: Path) -> None:
        self._number = number
        self._folder = folder / number
        self._folder.mkdir(parents=True)
        self._seen: set[str] = set()
        self._results: dict[str, Result] = {}
        self.latencies: list[float] = []
        self._all_over = threading.Event()
        self._wanted = 0
        self._client = SolverClient(address, name=f"load {number}", on_event=self._on_event)
        self._client.connect(60)

    def run(self, jobs: int, order: str) -> None:
        self._wanted = jobs
        for index in range(jobs):
            plate = self._folder / f"plate{index}.exr"
            plate.write_bytes(f"{order}\0{self._number} {index}".encode().ljust(50_000, b"."))
            media = self._client.upload([plate])
            self._client.submit(media, SolveSettings(), name=f"{self._number}/{index}")
        while not self._all_over.wait(1.0):
            pass
        for job, result in self._results.items():
            self._client.fetch(job, result.artefacts, self._folder / job)

    def close(self) -> None:
        self._client.close()

    @property
    def states(self) -> list[str]:
        return [result.state for result in self._results.values()]

    def _on_event(self, event: Any) -> None:
        now = time.monotonic()
        if isinstance(event, Progress) and event.stage == "tracking":
            # The worker says when it spoke; a repeated message says nothing new.
            if event.note not in self._seen and event.note[:1].isdigit():
                self._seen.add(event.note)
                self.latencies.append(now - float(event.note))
        elif isinstance(event, Result):
            self._results[event.job] = event
            if len(self._results) == self._wanted:
                self._all_over.set()


def run_jobs(address: str, clients: int, jobs: int, order: str, folder: Path) -> dict:
    """Returns the states of all jobs and the latencies of their progress, seconds."""
    each = [LoadClient(address, f"{folder.name}-{index}", folder) for index in range(clients)]
    wait_for_the_start()
    threads = [threading.Thread(target=client.run, args=(jobs, order)) for client in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in each:
        client.close()
    return {
        "states": [state for client in each for state in client.states],
        "latencies": [latency for client in each for latency in client.latencies],
    }


def run_upload(address: str, files: list[Path]) -> dict:
    """Returns when it began and ended, monotonic seconds."""
    with SolverClient(address, name="load") as client:
        client.connect(60)
        wait_for_the_start()
        began = time.monotonic()
        client.upload(files)
        return {"began": began, "ended": time.monotonic()}


def wait_for_the_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def main() -> None:
    what, address, *rest = sys.argv[1:]
    if what == "jobs":
        clients, jobs, seconds, counted, folder = rest
        order = f"busy {seconds} {counted}"
        seen = run_jobs(address, int(clients), int(jobs), order, Path(folder))
    else:
        seen = run_upload(address, [Path(file) for file in rest])
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
