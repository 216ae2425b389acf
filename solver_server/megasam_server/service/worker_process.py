"""A worker process as the server sees it: start it, hand it a job, hear from it, kill it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

_MAX_REPORT_BYTES = 64 << 20

OWN_GROUP: dict[str, Any] = (
    {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    if sys.platform == "win32"
    else {"start_new_session": True}
)
"""For Popen: Ctrl-C does not reach the process, and it can be ended with all that it starts."""


class WorkerProcess:
    """One child process that solves jobs, one after the other.

    Args:
        job_function: ``module:function`` that solves.
        environment: all its variables.
        mark: what tells it from the workers of other servers, in its command line.
        on_message: called with each map the worker sends.
        on_exit: called once with the exit code (negative: the signal that killed it), after the
            process and everything it started is gone.

    Both are called in a thread of this object.
    """

    def __init__(
        self,
        job_function: str,
        environment: Mapping[str, str],
        mark: str,
        on_message: Callable[[WorkerProcess, dict], None],
        on_exit: Callable[[WorkerProcess, int], None],
    ) -> None:
        self._on_message = on_message
        self._on_exit = on_exit
        # -P: a folder that happens to be current is no place to import from.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "megasam_server.service.worker", job_function, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=dict(environment),
            **OWN_GROUP,
        )
        self._reader = threading.Thread(target=self._read, name="worker-pipe", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start_job(self, fields: dict) -> None:
        """Hand over a job: the map of a :class:`megasam_server.service.executor.Task`, and ``stays``
        when the process is wanted for more than this job."""
        assert self._process.stdin is not None
        # A worker that just died is reported by on_exit.
        with contextlib.suppress(OSError):
            data = memoryview(msgpack.packb(fields))
            while data:
                data = data[self._process.stdin.write(data) :]

    def kill(self) -> None:
        """End the worker and everything it started; returns at once, on_exit follows."""
        if sys.platform == "win32":
            subprocess.Popen(
                ["taskkill", "/PID", str(self._process.pid), "/T", "/F"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def join(self, timeout: float) -> bool:
        """Wait until the process is gone and on_exit was called; False when it is not."""
        self._reader.join(timeout)
        return not self._reader.is_alive()

    def _read(self) -> None:
        assert self._process.stdout is not None and self._process.stdin is not None
        unpacker = msgpack.Unpacker(max_buffer_size=_MAX_REPORT_BYTES, strict_map_key=False)
        try:
            while data := self._process.stdout.read(1 << 16):
                unpacker.feed(data)
                for content in unpacker:
                    self._on_message(self, content)
        finally:
            # Before the process is reaped its number cannot belong to anybody else.
            self.kill()
            code = self._process.wait()
            self._process.stdout.close()
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._on_exit(self, code)


def describe_exit(code: int) -> str:
    """Why a worker ended, for people."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    if name == "SIGKILL":
        return "was killed (SIGKILL), most likely because the machine ran out of memory"
    return f"crashed ({name})"
