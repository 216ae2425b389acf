"""A server with CURVE in a thread of the test, whose counters can be read, and clients for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from megasam_server.service.options import CurveOptions, ServerOptions
from megasam_server.service.server import SolverServer
from megasam_shared.client import SolverClient
from megasam_shared.keys import KeyList, KeyPair, new_key_pair, write_key_pair
from megasam_shared.server_keys import ClientKeys

JOB_FUNCTION = "tests.server.service.job_functions:run_job"


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
        self._open = contextlib.ExitStack()

    def __enter__(self) -> CurveStudio:
        self.server = self._open.enter_context(running(self.options))
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
        client = self._open.enter_context(SolverClient(self.server.address, name="test", keys=keys))
        if connect:
            client.connect(10)
        return client

    def count(self, name: str, label: str | None = None) -> int:
        if label is None:
            return self.server.counters.total(name)
        return self.server.counters.snapshot().get((name, label), 0)


def wait_for(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
