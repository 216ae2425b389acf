"""Work of the processor beside that of the GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")


class _NotWanted(Exception):
    """Nobody waits for the result any more."""


@contextmanager
def beside(work: Callable[[Callable[[], None]], Result]) -> Iterator[Future[Result]]:
    """Run ``work`` in a thread of its own while the block runs.

    Args:
        work: is given a function that it calls now and then, which ends it when the block was left.

    Returns:
        what ``work`` returns or raises, once it has. The thread has ended when the block is left,
        and so holds no file open that is removed afterwards.
    """
    left = threading.Event()

    def go_on() -> None:
        if left.is_set():
            raise _NotWanted

    with ThreadPoolExecutor(1, "beside") as pool:
        try:
            yield pool.submit(work, go_on)
        finally:
            left.set()
