"""A solver server of one's own on loopback, for as long as one needs it.

``with PrivateServer() as server: SolverClient(server.address)``. The server is a child process with
a random port and its own temporary state folder. It watches its standard input: when the parent
closes it or dies, the server ends, with its worker, and removes its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from megasam_shared.errors import MegasamError

from megasam_server.service.worker import SOLVER
from megasam_server.service.worker_process import OWN_GROUP

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0


class PrivateServer:
    """Context manager around a private server.

    Args:
        job_function: ``module:function`` that solves.
        log: file for the server's log; None keeps the last lines only to explain a failed start.

    Attributes:
        address: endpoint for :class:`megasam_shared.client.SolverClient`.

    Raises:
        MegasamError: ``server_did_not_start``, on entering.
    """

    def __init__(self, job_function: str = SOLVER, log: Path | None = None) -> None:
        self._job_function = job_function
        self._log = log
        self.address = ""

    def __enter__(self) -> PrivateServer:
        self._state = Path(tempfile.mkdtemp(prefix="megasam-"))
        self._log_path = self._log or self._state / "server.log"
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "megasam_server.service.private"),
                    *(str(self._state), self._job_function),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C is for the parent, which cancels the job in good order.
                **OWN_GROUP,
            )
        try:
            self.address = self._read_address()
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self._state, ignore_errors=True)

    def _read_address(self) -> str:
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        stdout = self._process.stdout
        assert stdout is not None
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=_START_TIMEOUT)
            return json.loads(line)["address"]
        except (queue.Empty, ValueError, KeyError):
            said = self._log_path.read_text("utf-8", "replace").strip().splitlines()[-3:]
            raise MegasamError(
                "server_did_not_start",
                "A private solver server could not be started"
                + (f": {' / '.join(said)}" if said else "."),
                "Run 'megasam doctor' to see what is missing.",
            ) from None


def main() -> None:
    """Serve until standard input closes, then remove the state folder."""
    from megasam_shared.protocol import MAX_PRIORITY

    from megasam_server.service.options import ServerOptions, WarmOptions
    from megasam_server.service.server import SolverServer
    from megasam_server.service.server_log import LogOptions, start_log

    stop_log = start_log(LogOptions())
    state, job_function = Path(sys.argv[1]), sys.argv[2]
    server = SolverServer(
        ServerOptions(
            state=state,
            bind="tcp://127.0.0.1:0",
            # Who started it is its one client.
            any_checkpoints=True,
            max_priority=MAX_PRIORITY,
            warm=WarmOptions(seconds=0),
            job_function=job_function,
        )
    )

    def stop_with_parent() -> None:
        while os.read(0, 4096):
            pass
        server.stop()

    threading.Thread(target=stop_with_parent, name="parent-pipe", daemon=True).start()
    print(json.dumps({"address": server.address}), flush=True)
    try:
        server.run()
    finally:
        stop_log()
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
