"""The solver with checkpoints of random weights, which are beside the file ``published.json``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from megasam_server.checkpoints.locate import CHECKPOINTS_VARIABLE
from megasam_server.pipeline import run
from megasam_server.pipeline.job import SolveJob
from megasam_server.pipeline.progress import Progress


def run_job(job: SolveJob, progress: Progress) -> dict:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from random_checkpoints import checkpoints_from

    folder = Path(os.environ[CHECKPOINTS_VARIABLE])
    with checkpoints_from(folder, json.loads((folder / "published.json").read_text())):
        return run.run_job(job, progress) | {"pid": os.getpid()}
