"""For all tests: what they start ends, what they open is closed, what they write is gone."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

# A runner started in the background hands down "ignore Ctrl-C", and commands under test would
# inherit it. With a handler here, what the tests start gets the system's default instead.
signal.signal(signal.SIGINT, signal.default_int_handler)

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_TIME_TO_END = 10.0
# Python's own, which ends with the interpreter.
_ALLOWED_COMMANDS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def pytest_configure(config: pytest.Config) -> None:
    # Everything under test writes its temporary files to a folder of this run; pytest's own stay
    # where they were, to look at after a failure.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # torch makes a folder for compiled code as soon as an optimiser is made, and keeps it.
    config.compiled_code = tempfile.mkdtemp(prefix="mt-torch-")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = config.compiled_code
    config.temporary_files = Path(tempfile.mkdtemp(prefix="mt-"))
    # Tests say which weights there are: those of the package only where they ask for them.
    os.environ["MEGASAM_BUILT_IN_WEIGHTS"] = str(config.temporary_files / "no weights")
    for variable in ("TMPDIR", "TEMP", "TMP"):
        os.environ[variable] = str(config.temporary_files)
    tempfile.tempdir = None
    if sys.platform == "linux":
        # A process whose parent is gone becomes a child of this one, so that none is overlooked.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.temporary_files, ignore_errors=True)
    shutil.rmtree(config.compiled_code, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_at_the_end(pytestconfig) -> Iterator[None]:
    """No process, socket, thread, temporary file or folder outlives the tests."""
    own = psutil.Process()
    children_before = set(own.children(recursive=True))
    sockets_before = set(sockets_of(own))
    yield
    started = [p for p in own.children(recursive=True) if p not in children_before]
    _, alive = psutil.wait_procs([p for p in started if not is_allowed(p)], _TIME_TO_END)
    deadline = time.monotonic() + _TIME_TO_END
    while (sockets := set(sockets_of(own)) - sockets_before) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = {
        "processes": [f"{p.pid} {' '.join(p.cmdline())}" for p in alive],
        "sockets": sorted(sockets),
        "threads": [t.name for t in threading.enumerate() if t.name.startswith("megasam")],
        "temporary files": [str(path) for path in pytestconfig.temporary_files.iterdir()],
    }
    assert not any(left.values()), left


def is_allowed(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(allowed in command for allowed in _ALLOWED_COMMANDS)


def sockets_of(process: psutil.Process) -> list[str]:
    """Its sockets that listen or are connected."""
    return [
        f"{c.status} {c.laddr} {c.raddr}"
        for c in process.net_connections()
        if c.status in (psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT)
    ]
