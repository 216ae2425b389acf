"""Work beside the GPU's, in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from megasam_server.pipeline.beside import Beside, WorkLost
from megasam_shared.errors import MegasamError


# What the process is asked to do: it imports this module, as it would the solver's.
@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    sys.modules.setdefault("beside_tasks", __import__("beside_tasks"))


def tasks():
    return sys.modules["beside_tasks"]


def test_results_come_from_another_process_and_go_into_the_next_call():
    with Beside() as beside:
        numbers = beside.submit(tasks().count_to, 100_000)
        total = beside.submit(tasks().total_and_process, numbers)
        assert total.result(timeout=30)[0] == 99_999 * 50_000
        assert total.result()[1] != os.getpid()
        assert numbers.result().dtype == np.int64


def test_what_it_prints_does_not_disturb_the_answer(capfd):
    with Beside() as beside:
        assert beside.submit(tasks().talk).result(timeout=30) == "done"
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "printed" in captured.err


@pytest.mark.parametrize("kind", [MemoryError, MegasamError])
def test_an_error_is_raised_where_the_result_is_wanted_and_others_can_follow(kind):
    with Beside() as beside:
        failing = beside.submit(tasks().fail, kind)
        depending = beside.submit(tasks().total_and_process, failing)
        with pytest.raises(kind, match="no room") as told:
            failing.result(timeout=30)
        with pytest.raises(kind):
            depending.result(timeout=30)
        assert "in fail" in told.value.__notes__[0]
        assert beside.submit(tasks().count_to, 3).result(timeout=30).tolist() == [0, 1, 2]
    if kind is MegasamError:
        assert (told.value.code, told.value.hint) == ("no_room", "Free some.")


def test_an_error_that_cannot_travel_is_told_in_words():
    with Beside() as beside, pytest.raises(RuntimeError, match="StubbornError: of two words"):
        beside.submit(tasks().fail_stubbornly).result(timeout=30)


def test_it_ends_with_the_block_whatever_it_is_doing():
    began = time.monotonic()
    with pytest.raises(InterruptedError), Beside() as beside:
        number = beside.submit(os.getpid).result(timeout=30)
        endless = beside.submit(time.sleep, 600)
        waiting = beside.submit(os.getpid)
        raise InterruptedError
    assert time.monotonic() - began < 30
    assert not psutil.pid_exists(number)
    assert isinstance(endless.exception(timeout=5), WorkLost)
    assert waiting.cancelled() or isinstance(waiting.exception(timeout=5), WorkLost)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_that_is_killed_is_told():
    with Beside() as beside:
        number = beside.submit(os.getpid).result(timeout=30)
        endless = beside.submit(time.sleep, 600)
        os.kill(number, signal.SIGKILL)
        with pytest.raises(WorkLost, match="-9"):
            endless.result(timeout=30)
        with pytest.raises(WorkLost):
            beside.submit(os.getpid).result(timeout=30)


def test_it_does_not_outlive_a_process_that_is_killed(tmp_path):
    """Nobody could tell it to end then."""
    told = tmp_path / "number"
    owner = psutil.Popen([sys.executable, "-c", _OWNER.format(repr(str(told)))])
    try:
        deadline = time.monotonic() + 30
        while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        child = psutil.Process(int(told.read_text()))
    finally:
        owner.kill()
        owner.wait()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert not alive


_OWNER = """
import os, time
from pathlib import Path
from megasam_server.pipeline.beside import Beside
with Beside() as beside:
    number = beside.submit(os.getpid).result()
    beside.submit(time.sleep, 600)
    Path({}).write_text(str(number))
    time.sleep(600)
"""
