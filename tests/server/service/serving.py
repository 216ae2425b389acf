"""``megasam serve`` as a process that tests start, kill and start again on the same state folder."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.server.service.conftest import JOB_FUNCTION

_START_TIMEOUT = 30.0


class Serving:
    """A server on loopback.

    Args:
        state: its state folder, which survives it.
        options: further arguments of ``megasam serve``.
        before: a command that runs the server's command, e.g. with a limit.
        program: what to start instead of ``megasam``.
        job_function: what workers run; None for the real solver.

    Attributes:
        address: where it listens.
        log: file with everything that the servers of this state folder have said.
    """

    def __init__(
        self,
        state: Path,
        *options: str,
        before: Sequence[str] = (),
        program: Sequence[str] = (),
        job_function: str | None = JOB_FUNCTION,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.state = state
        self.log = state.with_name(state.name + ".log")
        variables = os.environ | (environment or {})
        if job_function is not None:
            variables["MEGASAM_JOB_FUNCTION"] = job_function
        command = [*(program or [megasam()]), "serve", "--state", str(state)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*before, *command, "--bind", "tcp://127.0.0.1:0", "--drain", "0", *options],
                stdout=subprocess.PIPE,
                stderr=log,
                env=variables,
                text=True,
            )
        self.address = self._read_address()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self.process.kill()
        self._wait()

    def stop(self) -> None:
        """As an administrator does; fails when the server does not end in good order."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self._wait() == 0, self.said

    def _wait(self) -> int:
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        return code

    def _read_address(self) -> str:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        reader = threading.Thread(target=lambda: lines.put(self.process.stdout.readline()))
        reader.start()
        try:
            line = lines.get(timeout=_START_TIMEOUT)
        except queue.Empty:
            line = ""
        if not line.startswith("Listening on "):
            self.process.kill()
            self._wait()
            reader.join()
            raise AssertionError(f"the server did not start: {self.said}")
        reader.join()
        return line.removeprefix("Listening on ").strip()


def megasam() -> str:
    """The command as it is installed."""
    program = shutil.which("megasam", path=str(Path(sys.executable).parent))
    assert program is not None
    return program


def gc(state: Path, *options: str) -> str:
    """What ``megasam gc`` says."""
    command = [megasam(), "gc", "--state", str(state), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def wait_for(condition, timeout: float = 15.0, what: str = "it did not happen"):
    """The first true value that ``condition`` returns."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return value


def files_below(folder: Path) -> set[str]:
    """Relative paths of all files below a folder."""
    # Unlike a glob, a walk passes over folders that go meanwhile.
    found = {Path(above, name) for above, _, names in os.walk(folder) for name in names}
    return {path.relative_to(folder).as_posix() for path in found}
