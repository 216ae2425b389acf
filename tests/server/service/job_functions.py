"""What workers run in these tests instead of the solver: real processes, real files, no solving.

The behaviour is chosen by the text of the plate's first file, which every test uploads for real.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import Progress
from megasam_shared.errors import MegasamError
from megasam_shared.stages import STAGES


def run_job(job: SolveJob, progress: Progress) -> dict:
    files = sorted(job.plate.iterdir()) if job.plate.is_dir() else [job.plate]
    order = files[0].read_bytes()[:100].split(b"\0")[0].decode(errors="replace").split()
    print("order:", order)
    action = order[0] if order else ""
    if action == "fail":
        raise MegasamError("plate_black", "The plate is black.", "Shoot it again.")
    if action == "crash":
        raise ZeroDivisionError("nobody foresaw this")
    if action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        # With a child of its own, which must go too.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(order[1]).write_text(f"{os.getpid()} {child.pid}")
        progress.update("tracking", 1, 4, "waiting")
        time.sleep(600)
    if action == "stubborn":
        # Deaf to everything but SIGKILL: no signal, and no other thread of Python's runs.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(order[1]).write_text(f"{os.getpid()} {child.pid}")
        ctypes.PyDLL(None).sleep(600)
    if action == "fill":
        _fill_the_disk(job.work_dir)
    if action == "count":
        _append(Path(order[1]), job.results_dir.parent.name)
    if action == "busy":
        if len(order) > 2:
            _append(Path(order[2]), job.results_dir.parent.name)
        _report_often(progress, float(order[1]))
    return _write_results(job, progress, files, order)


def _write_results(job: SolveJob, progress: Progress, files: list[Path], order: list[str]) -> dict:
    for stage in STAGES:
        if stage.key == "metric_depth":
            progress.skip(stage.key, "not in this preset")
            continue
        if order[:2] == ["once", stage.key]:
            _hang_the_first_time(Path(order[2]))
        for done in range(1, 4):
            progress.update(stage.key, done, 3, f"frame {done}")
            progress.preview(stage.key, done, b"\xff\xd8 picture")
            time.sleep(0.01)
    (job.results_dir / "depth").mkdir()
    (job.results_dir / "camera_extrinsics.json").write_text('{"num_frames": 3}')
    (job.results_dir / "empty.txt").touch()
    for index, file in enumerate(files):
        (job.results_dir / "depth" / f"{index:04d}.exr").write_bytes(file.read_bytes()[::-1])
    if job.masks is not None:
        masks = list(job.masks.iterdir()) if job.masks.is_dir() else [job.masks]
        (job.results_dir / "masks.txt").write_text(str(len(masks)))
    verdict = "failed" if order[:1] == ["unusable"] else "good"
    return {
        "extrinsics": {"num_frames": len(files)},
        "quality": {"verdict": verdict, "reasons": ["too dark"] if verdict == "failed" else []},
        "status": f"solved {len(files)} frames",
        "warnings": [],
        "usable": verdict != "failed",
        "plate": [file.name for file in files],
        "preset": job.settings.quality_preset,
        "environment": sorted(os.environ) if order[:1] == ["environment"] else [],
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }


def _hang_the_first_time(note: Path) -> None:
    tried = note.with_suffix(".tried")
    if not tried.exists():
        tried.touch()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        note.write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)


def _fill_the_disk(folder: Path) -> None:
    """To the last byte, and then fail as any stage would."""
    block = 1 << 20
    with (folder / "frames.rgb").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * block)
            except OSError:
                if block == 1:
                    raise
                block //= 2


def _append(path: Path, line: str) -> None:
    """One write of one line, which does not mix with those of others."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def _report_often(progress: Progress, seconds: float) -> None:
    """Keep a core busy and say what time it is."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        progress.update("tracking", 1, 4, f"{now:.6f}")
        sum(range(20_000))
