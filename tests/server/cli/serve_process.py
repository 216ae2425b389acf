"""``megasam serve`` as a process, and jobs whose stages end when a test says so."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from megasam_shared.client import SolverClient
from megasam_shared.settings import SolveSettings

from tests.server.service.conftest import REPOSITORY
from tests.server.service.staged_job import STAGES

MEGASAM = [sys.executable, "-c", "from megasam_server.cli import main; main()"]


def environment(folder: Path, **more: str) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "MEGASAM_JOB_FUNCTION": "tests.server.service.staged_job:run_job",
        "MEGASAM_CONFIG_DIR": str(folder / "config"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "COLUMNS": "120",
        **more,
    }


def megasam(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*MEGASAM, *arguments],
        env=environment(folder, **more),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )


class ServeProcess:
    """A running ``megasam serve`` on a free port.

    Attributes:
        address: where it listens.
        log: its standard error, once it has ended.
    """

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        self._process = subprocess.Popen(
            [*MEGASAM, "serve", "--bind", "127.0.0.1:0", "--gpus", "cpu", *arguments],
            env=environment(folder, **more),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.log = ""
        self.address = self._process.stdout.readline().removeprefix("Listening on ").strip()
        if not self.address:
            self.wait()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 15) -> int:
        """The exit code."""
        _, self.log = self._process.communicate(timeout=timeout)
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, **more: str) -> Iterator[ServeProcess]:
    process = ServeProcess(folder, "--state", str(folder / "state"), *arguments, **more)
    try:
        assert process.address, process.log
        yield process
    finally:
        process.close()


class StagedJob:
    """A job that was submitted and whose stages wait for the test."""

    def __init__(self, folder: Path, client: SolverClient, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir()
        file = folder / f"{name}.mov"
        file.write_bytes(str(self._folder).encode())
        self.id = client.submit(client.upload([file]), SolveSettings(), name=name).job

    def wait_until_in(self, stage: str, timeout: float = 15) -> None:
        deadline = time.monotonic() + timeout
        while not (self._folder / f"{stage}.begun").exists():
            assert time.monotonic() < deadline, f"{stage} was not begun"
            time.sleep(0.02)

    def end(self, *stages: str) -> None:
        for stage in stages or STAGES:
            (self._folder / f"{stage}.over").touch()

    def forget_begun(self) -> None:
        for stage in STAGES:
            (self._folder / f"{stage}.begun").unlink(missing_ok=True)
