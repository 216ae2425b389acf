"""What one plate becomes with every engine that looks for checkpoints, and with every policy.

As a program it does the same in a process of its own, whose packages a test has spoilt, and prints
the outcomes as JSON: ``python -m tests.server.pipeline.failure_cells PLATE FOLDER CACHE FACTS``,
where FACTS is what the table of checkpoints says (JSON, see :mod:`tests.server.checkpoints.published`).
It imports neither torch nor anything that does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from megasam_server.export.result_folder import ResultFolder
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import SilentProgress
from megasam_server.pipeline.run import run_job
from megasam_shared.errors import MegasamError
from megasam_shared.settings import SolveSettings

from tests.server.checkpoints.published import published

CELLS = [(engine, policy) for engine in ("auto", "megasam") for policy in ("lower", "fail")]


class NetworksRun(Exception):
    """The networks are at work: nothing was missing."""


class UntilNetworksRun(SilentProgress):
    """Stops a solve where the tracking network has been loaded and has seen the first frame."""

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        if note == "following the camera":
            raise NetworksRun


def outcome(plate: Path, folder: Path, cache: Path, **settings: Any) -> dict[str, Any]:
    """One solve, in a few words of JSON types: how it ended, and what it says of itself."""
    cheap = {"quality_preset": "fast", "tracking_resolution": 160}
    job = SolveJob(
        plate, None, SolveSettings(**cheap | settings), folder / "w", folder / "r", cache
    )
    job.work_dir.mkdir(parents=True)
    try:
        result = run_job(job, UntilNetworksRun())
    except NetworksRun:
        return {"ended": "networks"}
    except MegasamError as error:
        assert not job.results_dir.exists(), "an error leaves no results behind"
        return {"ended": "error", **error.to_map()}
    extrinsics = result["extrinsics"]
    written = ResultFolder(job.results_dir)
    quality = json.loads(written.quality.read_text("utf-8"))
    assert json.loads(written.camera_extrinsics.read_text("utf-8")) == extrinsics
    assert result["usable"] == quality["usable"] == extrinsics["usable"], (
        "all files say the same of whether it may be used"
    )
    return {
        "ended": "solved",
        "source": extrinsics["source"],
        "usable": result["usable"],
        "verdict": quality["verdict"],
        "identity": bool(np.allclose(extrinsics["matrix_c2w"], np.eye(4))),
        "status": result["status"],
        "reasons": quality["reasons"],
        "warnings": result["warnings"],
    }


def outcomes(plate: Path, folder: Path, cache: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """The outcome of each of :data:`CELLS`, by ``engine policy``."""
    return {
        f"{engine} {policy}": outcome(
            plate,
            folder / f"{engine} {policy}",
            cache,
            engine=engine,
            fallback_policy=policy,
            **settings,
        )
        for engine, policy in CELLS
    }


if __name__ == "__main__":
    plate, folder, cache = map(Path, sys.argv[1:4])
    with published(json.loads(sys.argv[4])):
        print(json.dumps(outcomes(plate, folder, cache)))
