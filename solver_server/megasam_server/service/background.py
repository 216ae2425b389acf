"""Work that may wait for a disk, done in threads and finished in the server's own thread."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import zmq
from megasam_shared.errors import MegasamError

_log = logging.getLogger(__name__)

# Hashing and writing leave Python's lock to others: as many as there are disks and cores to keep
# busy, and no more, for each holds a piece of a file.
_CHUNK_THREADS = min(8, os.cpu_count() or 1)

OnDone = Callable[[Any], None]
OnError = Callable[[MegasamError], None]


class Background:
    """Two sorts of threads beside the server's loop, and the way back into it.

    Chunks of one file go through one thread in the order they came; everything that may take
    seconds (hashing, linking a thousand files, cleaning) goes through others and never stands
    before them.

    Args:
        context: of the server; the wake-up call is an inproc socket.
    """

    def __init__(self, context: zmq.Context) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        address = f"inproc://background-{id(self)}"
        self.wake_receiver = context.socket(zmq.PULL)
        self.wake_receiver.bind(address)
        self._waker = context.socket(zmq.PUSH)
        self._waker.linger = 0
        self._waker.connect(address)
        # Re-entrant: a signal handler may call in while this thread does.
        self._waker_lock = threading.RLock()
        self._chunks = [
            ThreadPoolExecutor(1, thread_name_prefix=f"chunks-{number}")
            for number in range(_CHUNK_THREADS)
        ]
        self._slow = ThreadPoolExecutor(2, thread_name_prefix="slow")

    def call_soon(self, function: Callable[[], None]) -> None:
        """Run ``function`` in the loop's thread. From any thread."""
        self._calls.put(function)
        # When the queue of wake-ups is full, the loop is about to look anyway.
        with self._waker_lock, contextlib.suppress(zmq.Again):
            if not self._waker.closed:
                self._waker.send(b"", zmq.NOBLOCK)

    def run_calls(self) -> None:
        """Run what is waiting; called by the loop. One that fails is logged and stops nothing."""
        while self.wake_receiver.poll(0):
            self.wake_receiver.recv()
        for _ in range(self._calls.qsize()):
            try:
                self._calls.get_nowait()()
            except Exception:
                _log.exception("a call in the server's thread failed")

    def chunks_of(self, file: str) -> Callable[[Callable[[], Any], OnDone, OnError], None]:
        """Where pieces of that file are read or written, one after the other."""
        pool = self._chunks[zlib.crc32(file.encode()) % len(self._chunks)]

        def chunk(work: Callable[[], Any], done: OnDone, failed: OnError) -> None:
            pool.submit(self._run, work, done, failed)

        return chunk

    def slow(self, work: Callable[[], Any], done: OnDone, failed: OnError) -> None:
        """Anything that may take seconds."""
        self._slow.submit(self._run, work, done, failed)

    def forget(self, work: Callable[[], Any]) -> None:
        """Slow work that nobody waits for."""
        self.slow(work, lambda _: None, lambda _: None)

    def close(self) -> None:
        """Drop what has not begun, wait for what has."""
        for pool in self._chunks:
            pool.shutdown(cancel_futures=True)
        self._slow.shutdown(cancel_futures=True)
        with self._waker_lock:
            self._waker.close()
        self.wake_receiver.close()

    def _run(self, work: Callable[[], Any], done: OnDone, failed: OnError) -> None:
        try:
            value = work()
        except MegasamError as error:
            self.call_soon(partial(failed, error))
        except Exception as error:
            self.call_soon(partial(failed, unforeseen(error)))
        else:
            self.call_soon(lambda: done(value))


def unforeseen(error: Exception) -> MegasamError:
    """The error for one that is a bug of ours; it is logged with where it came from."""
    _log.error("a client's request or the server's own work failed", exc_info=error)
    return MegasamError(
        "internal_error",
        f"The server failed in a way nobody foresaw: {type(error).__name__}: {error}",
        "Look at the server's log.",
    )
