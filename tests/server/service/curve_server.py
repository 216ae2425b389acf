"""A server with CURVE in a thread of the test, whose counters can be read, and clients for it."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from megasam_server.service.options import CurveOptions, ServerOptions
from megasam_server.service.server import SolverServer
from megasam_shared.client import SolverClient
from megasam_shared.keys import KeyList, KeyPair, new_key_pair, write_key_pair
from megasam_shared.server_keys import ClientKeys

from tests.server.service.conftest import JOB_FUNCTION


@contextlib.contextmanager
def running(options: ServerOptions) -> Iterator[SolverServer]:
    server = SolverServer(options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


class CurveStudio:
    """Keys in a folder, a server that uses them, and named clients.

    Args:
        options: of the server, beside what is needed to run here.
    """

    def __init__(self, folder: Path, **options) -> None:
        self.allowed = KeyList(folder / "allowed_clients")
        self.server_pair = new_key_pair()
        write_key_pair(folder / "server.key", self.server_pair)
        self.options = ServerOptions(
            state=folder / "state",
            bind="tcp://127.0.0.1:0",
            curve=CurveOptions(folder / "server.key", folder / "allowed_clients"),
            job_function=JOB_FUNCTION,
            **options,
        )
        self.server: SolverServer
        self.address = ""
        self._open = contextlib.ExitStack()

    def __enter__(self) -> CurveStudio:
        self.server = self._open.enter_context(running(self.options))
        self.address = self.server.address
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def keys(self, name: str | None = None) -> ClientKeys:
        """Keys of a new client, allowed under ``name`` if there is one."""
        pair: KeyPair = new_key_pair()
        if name is not None:
            self.allowed.add(name, pair.public)
        return ClientKeys(pair, self.server_pair.public)

    def client(self, keys: ClientKeys | None, connect: bool = True) -> SolverClient:
        client = self._open.enter_context(SolverClient(self.address, name="test", keys=keys))
        if connect:
            client.connect(10)
        return client

    def count(self, name: str, label: str | None = None) -> int:
        counts = self._snapshot()
        return sum(
            n for (known, its), n in counts.items() if known == name and label in (None, its)
        )

    def _snapshot(self) -> Mapping[tuple[str, str], int]:
        return self.server.counters.snapshot()


class CurveStudioApart(CurveStudio):
    """The same with the server in a process of its own, whose memory can be looked at."""

    def __enter__(self) -> CurveStudioApart:
        command = [sys.executable, "-m", "tests.server.service.curve_server"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.address = self._ask(self.options)
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()

    def resident_mib(self) -> float:
        """Memory of the server, without its workers."""
        return psutil.Process(self._process.pid).memory_info().rss / 2**20

    def _snapshot(self) -> Mapping[tuple[str, str], int]:
        return self._ask("count")

    def _ask(self, what: object) -> Any:
        pickle.dump(what, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


def serve_apart() -> None:
    """The other side of :class:`CurveStudioApart`."""

    def answer(value: object) -> None:
        pickle.dump(value, sys.stdout.buffer)
        sys.stdout.flush()

    with running(pickle.load(sys.stdin.buffer)) as server:
        answer(server.address)
        with contextlib.suppress(EOFError):
            while pickle.load(sys.stdin.buffer):
                answer(dict(server.counters.snapshot()))


if __name__ == "__main__":
    serve_apart()
