"""What workers run in these tests instead of the solver: real processes, real files, no solving.

The behaviour is chosen by the text of the plate's first file, which every test uploads for real.
"""

from __future__ import annotations

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
    return _write_results(job, progress, files, action)


def _write_results(job: SolveJob, progress: Progress, files: list[Path], action: str) -> dict:
    for stage in STAGES:
        if stage.key == "metric_depth":
            progress.skip(stage.key, "not in this preset")
            continue
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
        (job.results_dir / "masks.txt").write_text(str(len(list(job.masks.iterdir()))))
    verdict = "failed" if action == "unusable" else "good"
    return {
        "extrinsics": {"num_frames": len(files)},
        "quality": {"verdict": verdict, "reasons": ["too dark"] if verdict == "failed" else []},
        "status": f"solved {len(files)} frames",
        "warnings": [],
        "usable": verdict != "failed",
        "plate": [file.name for file in files],
        "preset": job.settings.quality_preset,
        "environment": sorted(os.environ) if action == "environment" else [],
    }
