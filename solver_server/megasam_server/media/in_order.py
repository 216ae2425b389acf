"""Frames worked on by several threads, results in order, memory bounded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(4, os.cpu_count() or 1)
"""The steps between OpenCV's and numpy's hold the interpreter: more threads gain nothing."""


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int = THREADS,
    ahead: int = 2 * THREADS,
) -> Iterator[Result]:
    """``map(function, items)`` on several threads, ``ahead`` items further than the consumer is.

    When the consumer stops early, what has not started is dropped.
    """
    # The pool is never shut down: its threads end by themselves once it is gone. What a consumer
    # leaves to the garbage collector is closed in whatever thread that runs in, also one of these,
    # and whoever waits for threads or takes the pool's locks there can wait for ever.
    pool = ThreadPoolExecutor(threads, "in-order")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
