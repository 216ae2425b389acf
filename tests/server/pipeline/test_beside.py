"""Work beside the GPU's."""

from __future__ import annotations

import threading

import pytest
from megasam_server.pipeline.beside import beside


def test_the_result_is_there_when_it_is_wanted():
    with beside(lambda _: threading.current_thread().name) as name:
        assert name.result(timeout=5) != threading.current_thread().name


def test_its_error_is_raised_where_the_result_is_wanted():
    def work(_go_on) -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"), beside(work) as result:
        result.result(timeout=5)


def test_it_ends_when_the_block_is_left_by_an_error():
    began, ended = threading.Event(), threading.Event()

    def work(go_on) -> None:
        try:
            while True:
                go_on()
                began.set()
        finally:
            ended.set()

    with pytest.raises(InterruptedError), beside(work):
        assert began.wait(5)
        raise InterruptedError
    assert ended.is_set()


def test_a_result_that_nobody_wants_is_given_up():
    with beside(lambda go_on: [go_on() for _ in iter(int, 1)]) as endless:
        pass
    assert endless.done()
