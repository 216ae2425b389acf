"""What a worker does between two jobs: it puts back what the first changed, or says why it cannot.

A process that goes on must be as good as a new one: nothing of the job that is over runs any more,
holds its files, or shows in the next one's log.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
import threading
from pathlib import Path
from types import FrameType

import psutil

from megasam_server.pipeline.freed_memory import give_back_freed_memory
from megasam_server.pipeline.network_shelf import NetworkShelf

MOST_GROWTH = 1 << 30
"""Bytes by which a process may grow from its first rest on, beside the networks that it keeps."""

# Libraries whose threads may stay while they wait for work.
_POOLS = {"torch", "triton", "tqdm"} | sys.stdlib_module_names


class BetweenJobs:
    """Remembers what this process was like when it was made, before any job."""

    def __init__(self) -> None:
        self._folder = os.getcwd()
        self._environment = dict(os.environ)
        self._output = os.dup(2)
        self._streams = sys.stdout, sys.stderr
        self._limits = _limits()
        self._loggers = {logger: _LoggerState(logger) for logger in _loggers()}
        self._threads = set(threading.enumerate())
        self._process = psutil.Process()
        self._first_size: int | None = None

    def clean_up(self, job_folder: Path, shelf: NetworkShelf) -> str:
        """Make this process as it was.

        Args:
            job_folder: of the job that is over.
            shelf: what it keeps.

        Returns:
            why it must not solve another job, as part of a sentence; empty when it may.
        """
        try:
            self._put_back()
            _release()
            return self._left_behind(job_folder) or self._grown(shelf)
        except Exception as error:  # whatever it is, a new process does not have it
            return f"could not be cleaned up: {type(error).__name__}: {error}"

    def _put_back(self) -> None:
        for stream in (sys.stdout, sys.stderr, *self._streams):
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed file
                stream.flush()
        if sys.platform != "win32":
            ctypes.CDLL(None).fflush(None)  # what C libraries have not written belongs there, too
        sys.stdout, sys.stderr = self._streams
        os.dup2(self._output, 1)
        os.dup2(self._output, 2)
        for logger in _loggers():
            self._loggers.get(logger, _UNUSED).give_back_to(logger)
        os.chdir(self._folder)
        if dict(os.environ) != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        _put_back_limits(self._limits)

    def _left_behind(self, job_folder: Path) -> str:
        running = [process.name() for process in self._others()]
        if running:
            return f"left processes behind: {', '.join(running)[:200]}"
        threads = [thread.name for thread in self._busy_threads()]
        if threads:
            return f"left threads behind: {', '.join(threads)[:200]}"
        folder = job_folder.resolve()
        files = [f.path for f in self._process.open_files() if Path(f.path).is_relative_to(folder)]
        if files:
            return f"left files open: {', '.join(files)[:200]}"
        return ""

    def _others(self) -> list[psutil.Process]:
        """What runs for this process: its children, and who is in its group."""
        found = {child.pid: child for child in self._process.children(recursive=True)}
        if os.name == "posix" and os.getpgrp() == os.getpid():
            for pid in psutil.pids():
                with contextlib.suppress(OSError, psutil.Error):
                    if os.getpgid(pid) == os.getpid() != pid:
                        found[pid] = psutil.Process(pid)
        return [process for process in found.values() if _is_alive(process)]

    def _busy_threads(self) -> list[threading.Thread]:
        """Threads that the job started and that are not just a library's, waiting for work."""
        stacks = sys._current_frames()
        return [
            thread
            for thread in threading.enumerate()
            if thread not in self._threads
            and (isinstance(thread, threading.Timer) or not _only_waits(stacks.get(thread.ident)))
        ]

    def _grown(self, shelf: NetworkShelf) -> str:
        give_back_freed_memory()
        size = self._process.memory_info().rss - shelf.host_bytes
        if self._first_size is None:
            self._first_size = size
        growth = size - self._first_size
        return f"has grown by {growth / 2**20:.0f} MiB" if growth > MOST_GROWTH else ""


class _LoggerState:
    """Level and handlers of a logger."""

    def __init__(self, logger: logging.Logger | None) -> None:
        self._level = logger.level if logger else logging.NOTSET
        self._handlers = list(logger.handlers) if logger else []
        self._propagates = logger.propagate if logger else True

    def give_back_to(self, logger: logging.Logger) -> None:
        for handler in set(logger.handlers) - set(self._handlers):
            handler.close()
        logger.handlers[:] = self._handlers
        logger.propagate = self._propagates
        if logger.level != self._level:
            logger.setLevel(self._level)


# Of a logger that was not there.
_UNUSED = _LoggerState(None)


def _loggers() -> list[logging.Logger]:
    named = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(logger for logger in named if isinstance(logger, logging.Logger))]


def _limits() -> dict[int, tuple[int, int]]:
    """The resource limits that the system has, by number."""
    if sys.platform == "win32":
        return {}
    import resource

    numbers = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    return {number: resource.getrlimit(number) for number in numbers}


def _put_back_limits(limits: dict[int, tuple[int, int]]) -> None:
    for number, before in limits.items():
        import resource

        if resource.getrlimit(number) != before:
            resource.setrlimit(number, before)


def _release() -> None:
    """Give back all memory but that of the shelf's networks.

    Raises:
        RuntimeError: the GPU is in no state to go on.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        gc.collect()
        return
    from megasam_server.pipeline.out_of_memory import release_memory

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    release_memory()


def _only_waits(frame: FrameType | None) -> bool:
    """A thread stands in no code but the pools' of libraries."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _POOLS:
            return False
        frame = frame.f_back
    return True


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
