"""A plate goes in, a result comes home: real sockets, real server and worker processes."""

from __future__ import annotations

import time

import pytest
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import JobChanged, Progress, Result
from megasam_shared.settings import SolveSettings


def test_plate_goes_in_and_results_come_home(client, make_plate, tmp_path):
    files = make_plate(frames=3, bytes_each=2_500_000)
    masks = make_plate("mask", frames=2)
    sent = []
    plate = client.upload(files, lambda done, total: sent.append((done, total)))
    assert sent[-1] == (7_500_000, 7_500_000)
    settings = SolveSettings(quality_preset="fast")
    job = client.submit(plate, settings, masks=client.upload(masks), name="sh010")
    events = []
    result = client.wait(job.job, events.append, timeout=20)

    assert result.state == "done" and result.error is None
    assert result.result["plate"] == [file.name for file in files]
    assert result.result["preset"] == "fast"
    fetched = client.fetch(job.job, result.artefacts, tmp_path / "out")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in fetched}
    assert {"camera_extrinsics.json", "empty.txt", "masks.txt", "depth/0002.exr"} <= names
    assert (tmp_path / "out/depth/0001.exr").read_bytes() == files[1].read_bytes()[::-1]
    assert (tmp_path / "out/masks.txt").read_text() == "2"
    assert not list((tmp_path / "out").rglob("*.part"))

    progress = [event for event in events if isinstance(event, Progress)]
    fractions = [event.fraction for event in progress]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert progress[-1].skipped == ["metric_depth"]
    assert any(event.preview for event in progress)
    assert [e.job.state for e in events if isinstance(e, JobChanged)][-1] == "done"


def test_polling_sees_the_same_job(client, make_plate):
    plate = client.in_background(client.upload, make_plate()).result(10)
    job = client.submit(plate, SolveSettings())
    deadline = time.monotonic() + 15
    events = []
    while not any(isinstance(event, Result) for event in events):
        assert time.monotonic() < deadline
        events += client.poll()
        time.sleep(0.05)
    assert any(isinstance(event, Progress) for event in events)
    assert events[-1].job == job.job


def test_jobs_run_in_the_order_they_came(client, make_plate):
    plate = client.upload(make_plate())
    jobs = [client.submit(plate, SolveSettings(), name=str(n)) for n in range(3)]
    finished = [client.wait(job.job, timeout=20) for job in jobs]
    assert all(result.state == "done" for result in finished)
    listed = client.list_jobs()
    assert [job.name for job in listed] == ["2", "1", "0"]
    ends = [job.finished for job in reversed(listed)]
    assert ends == sorted(ends)


def test_failures_come_home_as_errors(client, make_plate):
    for action, code, words in [
        ("fail", "plate_black", "The plate is black."),
        ("crash", "internal_error", "nobody foresaw this"),
        ("die", "worker_died", "out of memory"),
    ]:
        job = client.submit(client.upload(make_plate(action)), SolveSettings())
        result = client.wait(job.job, timeout=20)
        assert (result.state, result.error.code) == ("failed", code)
        assert words in result.error.message
        assert result.artefacts == []
    after = client.submit(client.upload(make_plate()), SolveSettings())
    assert client.wait(after.job, timeout=20).state == "done"


def test_result_is_there_for_a_client_that_comes_later(client, server, make_plate):
    job = client.submit(client.upload(make_plate()), SolveSettings())
    client.wait(job.job, timeout=20)
    late = client.attach(job.job)
    assert isinstance(late, Result) and late.result["status"] == "solved 3 frames"


def test_refusals_say_why(client, make_plate, tmp_path):
    plate = client.upload(make_plate())
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    for call, code in [
        (lambda: client.submit(client.upload([text]), SolveSettings()), "not_media"),
        (lambda: client.attach("0" * 32), "job_unknown"),
        (lambda: client.cancel("0" * 32), "job_unknown"),
        (lambda: client.upload([tmp_path / "gone.exr"]), "plate_unreadable"),
        (lambda: client.submit(type(plate)(), SolveSettings()), "message_malformed"),
    ]:
        with pytest.raises(MegasamError) as caught:
            call()
        assert caught.value.code == code, caught.value
