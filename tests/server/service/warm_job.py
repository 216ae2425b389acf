"""A job that uses a network and puts it on the shelf, and then does what its plate says.

The plate is one file with three words: an action; a folder of the test, where each network that is
loaded leaves a line in the file ``loads``; and ``torch``, for a network that is one, or ``light``
for one that spares the test the import of torch.
"""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.network_shelf import NetworkKey, NetworkShelf
from megasam_server.pipeline.progress import Progress
from megasam_server.service import between_jobs
from megasam_shared.errors import MegasamError

_log = logging.getLogger("megasam_server.tests")
_leaked = []


def run_job(job: SolveJob, progress: Progress) -> dict:
    action, folder, kind = job.plate.read_text().split()
    seen = {
        "pid": os.getpid(),
        "folder": os.getcwd(),
        "leftover": os.environ.get("LEFTOVER"),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "handlers": len(logging.root.handlers) + len(_log.handlers),
    }
    print("printed for", action)
    _log.info("logged for %s", action)
    if job.shelf is not None and action != "classical":
        seen["answer"] = _use_network(job.shelf, Path(folder), kind)
    _act(action, job, Path(folder))
    progress.update("tracking", 1, 2)
    (job.results_dir / "camera_extrinsics.json").write_text("{}")
    return seen | {"usable": True, "status": "solved"}


def _use_network(shelf: NetworkShelf, folder: Path, kind: str) -> float:
    """What the network says, whose weights are random."""
    if kind == "torch":
        # Here: as the solver, which imports torch when it needs it.
        import torch

        key = NetworkKey("small", "1", torch.device("cpu"), torch.float32)
        build = partial(torch.nn.Linear, 1, 1)
    else:
        key = NetworkKey("light", "1", SimpleDevice("cpu"), "float32")
        build = LightNetwork

    def load():
        with (folder / "loads").open("a") as loads:
            loads.write(f"{os.getpid()}\n")
        return build()

    network = shelf.take(key, load)
    answer = network.bias.item()
    shelf.put_back(key, network)
    return answer


@dataclass(frozen=True)
class SimpleDevice:
    """What a shelf wants to know of a torch.device."""

    type: str


class LightNetwork:
    """What a shelf and the job want of a network."""

    def __init__(self) -> None:
        number = random.random()
        self.bias = SimpleNamespace(nbytes=8, item=lambda: number)

    def parameters(self) -> list:
        return [self.bias]

    def buffers(self) -> list:
        return []

    def to(self, *_: object) -> None:
        pass


def _act(action: str, job: SolveJob, folder: Path) -> None:
    if action == "fail":
        raise MegasamError("plate_black", "The plate is black.", "Shoot it again.")
    if action == "crash":
        raise ZeroDivisionError("nobody foresaw this")
    if action == "full":
        raise MegasamError("out_of_gpu_memory", "The GPU is too small.", "Buy another.")
    if action == "die" and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        (folder / "hangs").touch()
        time.sleep(600)
    if action == "change":
        _change_everything(job)
    if action == "child":
        # Not even a child: whoever started it is gone.
        subprocess.run(["sh", "-c", "sleep 600 >/dev/null 2>&1 &"], check=True)
    if action == "thread":
        threading.Thread(target=_wait_forever, daemon=True).start()
    if action == "file":
        _leaked.append((job.work_dir / "open").open("w"))
    if action == "stick":
        between_jobs.BetweenJobs.clean_up = lambda *_: time.sleep(600)
    if action == "grow":
        between_jobs.MOST_GROWTH = 32 << 20
        _leaked.append(b"x" * (64 << 20))


def _wait_forever() -> None:
    time.sleep(600)


def _change_everything(job: SolveJob) -> None:
    os.environ["LEFTOVER"] = "of another job"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    _log.addHandler(logging.FileHandler(job.results_dir / "own.log"))
    _log.setLevel(logging.CRITICAL)
    os.chdir(tempfile.gettempdir())
    sys.stdout.write("no end of line")
    # As a library that replaces it for a while and fails meanwhile.
    sys.stdout = (job.results_dir / "stdout").open("w")
    sys.stdout.write("lost")
