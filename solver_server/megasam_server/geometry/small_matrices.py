"""Linear algebra of many small matrices."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

import threadpoolctl


def one_blas_thread() -> AbstractContextManager:
    """Let numpy's and scipy's linear algebra run in the thread that calls it, while the block runs.

    Products of some hundred rows are done before a second thread has woken up, and where threads of
    ours already keep the cores busy, those of the BLAS wait for each other longer than they compute: four
    times as long, seen on two busy cores. It counts for the whole process, so blocks must not overlap.
    """
    return _controller().limit(limits=1, user_api="blas")


@functools.cache
def _controller() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()
