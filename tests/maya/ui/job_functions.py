"""What workers run in the dialog's tests: real processes, progress and files, without solving.

The text of the plate's first file says what happens, e.g. ``frames=200 pause=0.02 verdict=check``.
"""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import Progress
from megasam_shared.errors import MegasamError
from megasam_shared.extrinsics import build_extrinsics
from megasam_shared.quality import Notice, Quality
from megasam_shared.stages import STAGES

WIDTH, HEIGHT = 1920, 1080
_REASONS = {
    "good": [],
    "check": ["Almost no parallax: solved as a tripod shot, depths are a guess."],
    "failed": ["Only 12 of 120 frames see solved points: the picture is too blurred."],
}


def run_job(job: SolveJob, progress: Progress) -> dict:
    files = sorted(job.plate.iterdir()) if job.plate.is_dir() else [job.plate]
    said = re.findall(rb"(\w+)=([^\s\0]+)", files[0].read_bytes()[:300])
    orders = {name.decode(): value.decode() for name, value in said}
    count = int(orders.get("frames", len(files)))
    pause = float(orders.get("pause", 0.0))
    _run_stages(progress, count, pause, orders.get("hold", ""))
    if "fail" in orders:
        raise MegasamError("plate_black", "The plate is black.", "Shoot it again.")
    result = write_result(job.results_dir, count, orders.get("verdict", "good"))
    (job.results_dir / "settings.json").write_text(json.dumps(job.settings.to_map()))
    return result


def _run_stages(progress: Progress, count: int, pause: float, hold: str) -> None:
    for stage in STAGES:
        if stage.key == "metric_depth":
            progress.skip(stage.key, "not in this preset")
            continue
        for done in range(1, count + 1):
            progress.update(stage.key, done, count, f"frame {done}")
            progress.preview(stage.key, 1000 + done, picture(done, count))
            time.sleep(pause)
            while hold and stage.key == "tracking" and 2 * done >= count and Path(hold).exists():
                progress.update(stage.key, done, count, "holding")
                time.sleep(0.05)


def picture(index: int, count: int) -> bytes:
    """A JPEG of about the size that the solver sends."""
    import cv2
    import numpy as np

    y, x = np.mgrid[0:180, 0:320]
    phase = 2 * math.pi * index / count
    wave = 127 + 100 * np.sin(x / 23 + phase) * np.cos(y / 17 - phase)
    return cv2.imencode(".jpg", wave.astype(np.uint8))[1].tobytes()


def write_result(folder: Path, count: int, verdict: str) -> dict:
    """A result folder as a solve writes it, as far as the dialog reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    poses = [
        [[1, 0, 0, i * 0.01], [0, 1, 0, 0], [0, 0, 1, i * 0.02], [0, 0, 0, 1]] for i in range(count)
    ]
    extrinsics = build_extrinsics(
        world_from_cam=poses,
        focal_px=[1866.7] * count,
        width=WIDTH,
        height=HEIGHT,
        frame_numbers=list(range(1001, 1001 + count)),
        fps=24.0,
        coordinate_system="maya",
        source="Classical",
        solving_method="sparse tracks and structure from motion",
        status="Solved by the classical engine.",
        scale_is_metric=False,
        usable=verdict != "failed",
    )
    quality = _quality(count, verdict)
    (folder / "camera_extrinsics.json").write_text(json.dumps(extrinsics))
    (folder / "quality.json").write_text(json.dumps(quality.to_map()))
    for suffix in ("ma", "usda", "abc", "fbx", "chan"):
        (folder / f"camera.{suffix}").write_text(f"camera as {suffix}")
    return {
        "extrinsics": extrinsics,
        "quality": quality.to_map(),
        "status": extrinsics["status"],
        "warnings": [],
        "usable": quality.usable,
    }


def _quality(count: int, verdict: str) -> Quality:
    worse = {"good": 1.0, "check": 2.4, "failed": 9.0}[verdict]
    errors: list[float | None] = [
        worse * (0.42 + 0.12 * math.sin(i / 7) + 0.05 * math.cos(i * 1.7)) for i in range(count)
    ]
    if count > 60:
        errors[40] = errors[40] * 2.6
        errors[52:56] = [None] * 4
    notices = [
        Notice("short_tracks", "Tracks are short.", "Motion blur? Look at the worst frames.")
    ]
    return Quality(
        verdict=verdict,
        reasons=_REASONS[verdict],
        rms_px=worse * 0.45,
        per_frame_rms_px=errors,
        coverage=0.62,
        moving_share=0.08,
        baseline_to_depth=0.21,
        median_track_length=31.0,
        num_points=2841,
        focal_profile=None,
        scale_is_metric=False,
        warnings=notices if verdict != "good" else [],
    )
