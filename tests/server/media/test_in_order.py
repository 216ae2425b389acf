"""Frames in several threads, and what becomes of them when the consumer stops."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from megasam_server.media.in_order import map_in_order


def test_results_come_in_order_and_no_more_than_allowed_ahead():
    started = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    for number, result in enumerate(map_in_order(work, range(30), threads=3, ahead=4)):
        assert result == number * number
        assert len(started) <= number + 1 + 4
    assert sorted(started) == list(range(30))


def test_an_error_comes_in_its_turn_and_what_waited_does_not_start():
    started = []

    def work(item: int) -> int:
        started.append(item)
        if item == 2:
            raise ValueError("item 2")
        return item

    results = map_in_order(work, range(100), threads=1, ahead=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(results)
    assert max(started) <= 4


def test_threads_end_when_the_consumer_stops_early():
    before = set(threading.enumerate())
    results = map_in_order(abs, range(100), threads=3, ahead=4)
    next(results)
    # Threads of an earlier test may end at any time.
    assert set(threading.enumerate()) - before
    results.close()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


LEFT_TO_THE_COLLECTOR = """
import gc, threading
from megasam_server.media.in_order import map_in_order

gc.disable()
lock = threading.Lock()

def work(item):
    if item > 0:
        with lock:
            pass
    return item

def consume():
    results = map_in_order(work, range(9), threads=2, ahead=2)
    itself = [results]
    itself.append(itself)  # only the collector finds that nobody needs it
    next(results)

with lock:  # as an import or the log holds one
    consume()
    gc.collect()
"""


def test_the_garbage_collector_does_not_wait_for_the_threads():
    """They may need what the thread that collects holds."""
    subprocess.run([sys.executable, "-c", LEFT_TO_THE_COLLECTOR], check=True, timeout=20)
