"""The folder of one job: the only place that knows the names in it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobFolder:
    """Where the parts of one job lie."""

    path: Path

    @property
    def plate(self) -> Path:
        return self.path / "plate"

    @property
    def masks(self) -> Path:
        return self.path / "masks"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def log(self) -> Path:
        return self.path / "worker.log"

    @property
    def result_message(self) -> Path:
        return self.path / "result.msgpack"

    @property
    def record(self) -> Path:
        return self.path / "job.json"

    def make_ready(self) -> None:
        """Empty work and result folders for a run."""
        for folder in (self.work, self.results):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def clean(self, keep_results: bool) -> None:
        """Remove what a job that is over does not need: its scratch, its links to the uploads, and
        results that are not finished."""
        kept = {self.log, self.result_message, self.record}
        if keep_results:
            kept.add(self.results)
        for path in set(self.path.iterdir()) - kept:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def write_record(self, columns: dict) -> None:
        """Keep a copy of the job's row in the index, for the day when the index is damaged."""
        write_whole(self.record, json.dumps(columns, indent=1).encode())

    def read_record(self) -> dict | None:
        """The copy of the row; None when there is none that can be read."""
        try:
            columns = json.loads(self.record.read_bytes())
        except (OSError, ValueError):
            return None
        return columns if isinstance(columns, dict) else None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there with all of ``data``, or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.new")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
