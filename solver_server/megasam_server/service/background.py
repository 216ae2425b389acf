"""Work that may wait for a disk, done in threads and finished in the server's own thread."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import zmq
from megasam_shared.errors import MegasamError

_log = logging.getLogger(__name__)

OnDone = Callable[[Any], None]
OnError = Callable[[MegasamError], None]


class Background:
    """Two sorts of threads beside the server's loop, and the way back into it.

    Chunks of files go through one thread in the order they came; everything that may take seconds
    (hashing, linking a thousand files, cleaning) goes through others and never stands before them.

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
        self._chunks = ThreadPoolExecutor(1, thread_name_prefix="chunks")
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

    def chunk(self, work: Callable[[], Any], done: OnDone, failed: OnError) -> None:
        """Reading or writing one piece of a file."""
        self._chunks.submit(self._run, work, done, failed)

    def slow(self, work: Callable[[], Any], done: OnDone, failed: OnError) -> None:
        """Anything that may take seconds."""
        self._slow.submit(self._run, work, done, failed)

    def forget(self, work: Callable[[], Any]) -> None:
        """Slow work that nobody waits for."""
        self.slow(work, lambda _: None, lambda _: None)

    def close(self) -> None:
        """Drop what has not begun, wait for what has."""
        self._chunks.shutdown(cancel_futures=True)
        self._slow.shutdown(cancel_futures=True)
        with self._waker_lock:
            self._waker.close()
        self.wake_receiver.close()

    def _run(self, work: Callable[[], Any], done: OnDone, failed: OnError) -> None:
        try:
            value = work()
        except MegasamError as error:
            known = error
            self.call_soon(lambda: failed(known))
        except Exception as error:
            _log.exception("background work failed")
            unknown = MegasamError(
                "internal_error",
                f"The server failed in a way nobody foresaw: {type(error).__name__}: {error}",
                "Look at the server's log.",
            )
            self.call_soon(lambda: failed(unknown))
        else:
            self.call_soon(lambda: done(value))
