"""Host memory of a worker process that solves with the engine megasam, stage by stage.

    python tests/benchmarks/host_memory.py [--frames 100 400] [--size 1920x1080] [--preset balanced]
        [--depth vitl] [--set SETTING=VALUE ...] [--folder DIR] [--out FILE]

A process of its own for each number of frames imports what a worker imports while it waits ("idle"),
then torch, makes a first tensor on the GPU where there is one ("ready"), and solves a plate
with networks of random weights loaded from checkpoint files. It is watched from outside, with the process
that follows corners beside it, fifty times a second. Columns: most resident memory of the phase, MiB;
the same above the idle worker; how much of that was anonymous (the processes' own) and how much pages
of files, which the system takes back when others need the room. Then the most of all stages for each
number of frames, and the ratio.

The camera pans over a painted wall. With random weights the track means nothing, but every frame becomes a
keyframe: the most memory that there can be. ``--set`` takes JSON, e.g. ``--set
tracking_resolution=160``; ``--depth none`` solves without depth networks. ``--folder`` keeps
checkpoints and plates for the next run. Where the libraries for media files are missing (PyAV,
OpenImageIO), frames go straight to the frame store and no results are written.

Exit code 1 when a goal is missed: 3 GiB above the idle worker for 100 frames of 1920x1080 at balanced, and
at most 30 % more for 400. Other frames, sizes and presets are not judged. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil
from plate_by_opencv import FIRST_FRAME, read_with_opencv, stand_in_for_media

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

MOST_MIB, MOST_GROWTH = 3 * 1024, 1.3
WATCH_SECONDS, REST_SECONDS = 0.02, 0.5
_DEPTH = {
    "none": (),
    "vits": ("depth_anything_v2_vits", "unidepth_v2_vits"),
    "vitl": ("depth_anything_v2_vitl", "unidepth_v2_vitl"),
}


@dataclass
class Memory:
    """MiB: resident, and the part of it that is the processes' own."""

    resident: float = 0.0
    anonymous: float = 0.0

    @classmethod
    def of(cls, pid: int) -> Memory:
        """Of a process and those that it has started; files that several have in memory count for each."""
        total = cls()
        for process in (
            pid,
            *(child.pid for child in psutil.Process(pid).children(recursive=True)),
        ):
            fields = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{process}/status").read_text().splitlines()
            )
            resident, files = (int(fields[key].split()[0]) / 1024 for key in ("VmRSS", "RssFile"))
            total.resident += resident
            total.anonymous += resident - files
        return total


# --- the worker


def work(order: dict) -> None:
    """Solve as a worker does, and tell the phases on standard output."""
    without_media = stand_in_for_media()
    from megasam_server.pipeline import run
    from megasam_server.pipeline.job import SolveJob
    from megasam_server.pipeline.progress import SilentProgress
    from megasam_server.pipeline.stage_meter import StageMeter
    from megasam_shared.errors import MegasamError
    from megasam_shared.settings import SolveSettings

    from tests.server.checkpoints.published import published

    run.prepare()
    tell("idle")
    time.sleep(REST_SECONDS)
    tell("importing")
    import megasam_server.pipeline.megasam_engine  # noqa: F401
    import torch

    torch.zeros(1, device="cuda" if torch.cuda.is_available() else "cpu")
    tell("ready")
    time.sleep(REST_SECONDS)
    tell("choosing checkpoints")

    class TellingMeter(StageMeter):
        @contextmanager
        def stage(self, key: str) -> Iterator[None]:
            tell(key)
            with super().stage(key):
                yield
            tell("between stages")

    run.StageMeter = TellingMeter
    if without_media:
        read_with_opencv()
    folder = Path(order["folder"])
    job = SolveJob(
        Path(order["plate"]),
        None,
        SolveSettings(**order["settings"]),
        folder / "work",
        folder / "results",
    )
    job.work_dir.mkdir(parents=True)
    with published(order["facts"]):
        try:
            status = run.run_job(job, SilentProgress())["status"]
        except MegasamError as error:
            status = f"{error.code}: {error.message}"
    tell("after the job")
    time.sleep(REST_SECONDS)
    print(json.dumps({"status": status}), flush=True)


def tell(phase: str) -> None:
    print(json.dumps({"phase": phase}), flush=True)


# --- around it


def paint_plate(folder: Path, count: int, width: int, height: int) -> None:
    """A pan to and fro over a wall, as JPEG."""
    rng = np.random.default_rng(5)
    wall = np.zeros((height + 64, 2 * width, 3), np.float32)
    for cell, strength in ((160, 60.0), (40, 45.0), (10, 30.0)):
        spots = rng.normal(size=(wall.shape[0] // cell + 2, wall.shape[1] // cell + 2, 3))
        wall += cv2.resize(spots.astype(np.float32) * strength, wall.shape[1::-1])
    wall = np.clip(wall + 128, 0, 255).astype(np.uint8)
    folder.mkdir(parents=True)
    for frame in range(count):
        left = round((width - 1) * (0.5 - 0.5 * np.cos(frame / 12)))
        top = round(32 + 31 * np.sin(frame / 9))
        picture = wall[top : top + height, left : left + width]
        cv2.imwrite(str(folder / f"wall.{FIRST_FRAME + frame}.jpg"), picture)


def watched(order: dict, checkpoints: Path) -> tuple[dict[str, Memory], str]:
    """Run the worker: the most memory of each phase, and how the solve ended."""
    environment = os.environ | {
        "MEGASAM_CHECKPOINTS": str(checkpoints),
        "XDG_CACHE_HOME": str(checkpoints / "cache"),
    }
    command = [sys.executable, __file__, "--work", json.dumps(order)]
    most: dict[str, Memory] = {}
    phase, status = "starting", ""
    over = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:

        def watch() -> None:
            while not over.wait(WATCH_SECONDS):
                try:
                    now = Memory.of(worker.pid)
                except (OSError, KeyError, psutil.Error):  # one of them has just ended
                    continue
                seen = most.setdefault(phase, Memory())
                if now.resident > seen.resident:
                    seen.resident, seen.anonymous = now.resident, now.anonymous

        watcher = threading.Thread(target=watch)
        watcher.start()
        for line in worker.stdout:
            if not line.startswith("{"):
                continue
            told = json.loads(line)
            phase, status = told.get("phase", phase), told.get("status", status)
        over.set()
        watcher.join()
    return most, status


def show(count: int, most: dict[str, Memory], status: str) -> float:
    """Print the table of one solve; the most of all stages above the idle worker, MiB."""
    idle = most["idle"]
    print(f"\n### {count} frames: {status}\n")
    print("| phase | resident MiB | above idle | anonymous | files |\n|---|---|---|---|---|")
    for phase, seen in most.items():
        anonymous = seen.anonymous - idle.anonymous
        above = seen.resident - idle.resident
        columns = (seen.resident, above, anonymous, above - anonymous)
        print(f"| {phase} | " + " | ".join(f"{value:.0f}" for value in columns) + " |")
    peak = max(seen.resident for seen in most.values()) - idle.resident
    print(f"\nMost: {peak:.0f} MiB above the idle worker.", flush=True)
    return peak


def judged(peaks: dict[int, float]) -> bool:
    """Print whether the goals are met."""
    met = [peaks[100] < MOST_MIB]
    print(f"100 frames below {MOST_MIB} MiB: {'met' if met[0] else 'missed'}")
    if 400 in peaks:
        met.append(peaks[400] / peaks[100] <= MOST_GROWTH)
        print(f"400 frames at most {MOST_GROWTH:g} times that: {'met' if met[1] else 'missed'}")
    return all(met)


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--depth", choices=_DEPTH, default="vitl")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, help="figures as JSON")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(json.loads(options.work))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        return measure(options, folder)


def measure(options: argparse.Namespace, folder: Path) -> int:
    """All numbers of frames, one after the other; the exit code."""
    from random_checkpoints import random_checkpoint_folder

    width, height = map(int, options.size.split("x"))
    checkpoints = folder / "checkpoints"
    facts = random_checkpoint_folder(
        checkpoints, ("megasam", "raft_things", *_DEPTH[options.depth])
    )
    overrides = {name: json.loads(value) for name, value in (s.split("=", 1) for s in options.set)}
    settings = {"engine": "megasam", "quality_preset": options.preset, "max_frames": 100_000}
    figures, peaks = {}, {}
    for count in options.frames:
        plate = folder / f"wall {count} {options.size}"
        if not plate.is_dir():
            paint_plate(plate, count, width, height)
        job = folder / f"job {count}"
        order = {
            "plate": str(plate),
            "folder": str(job),
            "settings": settings | overrides,
            "facts": facts,
        }
        shutil.rmtree(job, ignore_errors=True)  # of a run that was stopped
        most, status = watched(order, checkpoints)
        shutil.rmtree(job, ignore_errors=True)
        if "after the job" not in most:
            print(f"The worker died in this phase: {list(most)[-1]}", file=sys.stderr)
            return 2
        peaks[count] = show(count, most, status)
        figures[count] = {"status": status, "most": {k: vars(v) for k, v in most.items()}}
    least, largest = min(peaks), max(peaks)
    ratio = peaks[largest] / peaks[least]
    print(
        f"\n{largest} frames take {ratio:.2f} times the memory of {least}, above the idle worker."
    )
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1))
    is_goal = (options.size, options.preset, overrides) == ("1920x1080", "balanced", {})
    return 0 if not (is_goal and 100 in peaks) or judged(peaks) else 1


if __name__ == "__main__":
    sys.exit(main())
