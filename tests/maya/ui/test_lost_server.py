"""The server dies in mid-solve, is not there, or is not what it should be."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from megasam_maya.job_history import JobHistory, JobRecord
from megasam_shared.client import SolverClient

from tests.maya.ui.conftest import JOB_FUNCTION
from tests.server.service.serving import Serving

PATIENCE = 20_000


@pytest.mark.parametrize(
    "pressed",
    [
        pytest.param(True, id="Reconnect", marks=pytest.mark.slow),
        pytest.param(False, id="by itself"),
    ],
)
def test_killed_server_is_told_within_5_s_and_the_job_is_back_after_its_restart(
    qtbot, open_dialog, make_plate, tmp_path, pressed
):
    held = tmp_path / "hold"
    held.touch()
    bind = f"tcp://127.0.0.1:{free_port()}"
    first = Serving(tmp_path / "state", "--bind", bind, job_function=JOB_FUNCTION)
    dialog = open_dialog(first.address)
    dialog.plate.picker.set_path(make_plate(f"frames=10 hold={held}"))
    qtbot.waitUntil(lambda: dialog.plate.plate is not None, timeout=PATIENCE)
    dialog.solve()
    qtbot.waitUntil(lambda: dialog.progress.bars["tracking"].value() > 0, timeout=PATIENCE)

    first.kill()
    killed = time.monotonic()
    qtbot.waitUntil(dialog.message.isVisible, timeout=5000)
    assert time.monotonic() - killed < 5.0
    assert dialog.server.dot.state == "lost"
    assert "has not answered" in dialog.message.text.text()
    assert dialog.message.action.text() == "Reconnect"

    dialog.progress.start("")
    with Serving(tmp_path / "state", "--bind", bind, job_function=JOB_FUNCTION):
        if pressed:
            dialog.message.action.click()
        qtbot.waitUntil(lambda: dialog.server.dot.state == "connected", timeout=PATIENCE)
        qtbot.waitUntil(lambda: dialog.progress.bars["tracking"].value() > 0, timeout=PATIENCE)
        held.unlink()
        qtbot.waitUntil(lambda: dialog.result.quality is not None, timeout=PATIENCE)


def test_reconnecting_again_and_again_while_the_answer_is_on_its_way_makes_one_job(
    qtbot, open_dialog, make_plate, server, monkeypatch
):
    submitted, answers = [], threading.Event()
    submit = SolverClient.submit

    def submit_and_wait(client, *arguments, **options):
        job = submit(client, *arguments, **options)
        submitted.append(job.job)
        answers.wait(20)
        return job

    monkeypatch.setattr(SolverClient, "submit", submit_and_wait)
    dialog = open_dialog(server.address)
    dialog.plate.picker.set_path(make_plate())
    qtbot.waitUntil(lambda: dialog.plate.plate is not None, timeout=PATIENCE)
    qtbot.waitUntil(lambda: dialog.server.dot.state == "connected", timeout=PATIENCE)
    dialog.solve()
    for attempt in (1, 2, 3):
        qtbot.waitUntil(lambda n=attempt: len(submitted) == n, timeout=PATIENCE)
        if attempt < 3:
            dialog.server.connect_button.click()
    answers.set()
    qtbot.waitUntil(lambda: dialog.result.quality is not None, timeout=PATIENCE)
    assert len(set(submitted)) == 1
    with SolverClient(server.address) as client:
        client.connect()
        assert [job.job for job in client.list_jobs()] == submitted[:1]
    assert [record.job for record in JobHistory().records()] == submitted[:1]


def test_no_server_says_so_and_closing_does_not_wait(qtbot, open_dialog):
    dialog = open_dialog(f"tcp://127.0.0.1:{free_port()}")
    qtbot.waitUntil(dialog.message.isVisible, timeout=PATIENCE)
    assert dialog.server.dot.state == "unreachable"
    assert "megasam serve" in dialog.message.text.text()
    session = dialog.session
    began = time.monotonic()
    dialog.shut_down()
    assert time.monotonic() - began < 1.0
    assert not session.alive


def test_a_job_on_a_server_that_is_gone_does_not_hold_the_dialog(qtbot, open_dialog):
    gone = f"tcp://127.0.0.1:{free_port()}"
    record = JobRecord("a" * 32, gone, "sh010", "/plate", "/none", 100.0, state="running")
    JobHistory().add(record)
    dialog = open_dialog("")
    assert dialog.server.address.currentText() == gone
    assert dialog.cancel_button.isEnabled()
    began = time.monotonic()
    dialog.cancel_button.click()
    qtbot.waitUntil(lambda: not dialog.cancel_button.isEnabled(), timeout=PATIENCE)
    qtbot.waitUntil(lambda: "may still run there" in dialog.message.text.text(), timeout=PATIENCE)
    assert time.monotonic() - began < 1.0
    assert JobHistory().records() == [record]


def test_a_dialog_for_one_server_does_not_look_for_jobs_of_another(open_dialog):
    record = JobRecord("a" * 32, "tcp://gpu07:5599", "sh010", "/p", "/none", 1.0, state="running")
    JobHistory().add(record)
    dialog = open_dialog(f"127.0.0.1:{free_port()}")
    assert not dialog.cancel_button.isEnabled()
    assert dialog.server.address.currentText().startswith("tcp://127.0.0.1:")


def test_an_address_that_is_none_is_said_as_such(qtbot, open_dialog):
    dialog = open_dialog("http://gpu01")
    qtbot.waitUntil(dialog.message.isVisible, timeout=PATIENCE)
    assert "is not the address of a server" in dialog.message.text.text()
    dialog.connect_to("gpu01:5599")
    qtbot.waitUntil(lambda: "public key" in dialog.message.text.text(), timeout=PATIENCE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
