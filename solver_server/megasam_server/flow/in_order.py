"""Frames worked on by several threads, results in order, memory bounded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 4
"""The steps between OpenCV's and numpy's hold the interpreter: more threads gain nothing."""


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map(function, items)`` on several threads; at most two results per thread wait.

    When the consumer stops early, what has not started is dropped.
    """
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    waiting = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="dense") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
