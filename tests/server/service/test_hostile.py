"""Messages that nobody should send: refused with a reason, and the server goes on."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import zmq
from megasam_server.service.options import ServerOptions
from megasam_server.service.server import SolverServer, check_bind
from megasam_shared import connection as connection_module
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import (
    PROTOCOL_VERSION,
    Attach,
    Chunk,
    Error,
    Fetch,
    Hello,
    ListJobs,
    Media,
    MediaFile,
    Submit,
    Welcome,
)
from megasam_shared.settings import SolveSettings
from megasam_shared.wire import MAX_MESSAGE_BYTES, decode, encode

ID = "0" * 32


class RawClient:
    """A peer that keeps no rules."""

    def __init__(self, address: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(address)

    def ask(self, *frames: bytes, timeout: int = 5000):
        self.socket.send_multipart(frames)
        assert self.socket.poll(timeout), "no answer"
        return decode(self.socket.recv())

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def raw(server):
    client = RawClient(server.address)
    yield client
    client.close()


def hello() -> bytes:
    return encode(Hello(PROTOCOL_VERSION, "test", "raw"))


def test_first_message_must_be_hello(raw):
    answer = raw.ask(encode(ListJobs(7)))
    assert isinstance(answer, Error) and (answer.code, answer.request) == ("hello_required", 7)
    assert isinstance(raw.ask(hello()), Welcome)


def test_other_protocol_version_is_refused_naming_both(server, monkeypatch):
    monkeypatch.setattr(connection_module, "PROTOCOL_VERSION", 99)
    with SolverClient(server.address) as client, pytest.raises(MegasamError) as caught:
        client.connect(5)
    assert caught.value.code == "protocol_mismatch"
    assert "protocol 99" in caught.value.message
    assert f"protocol {PROTOCOL_VERSION}" in caught.value.message


def test_nobody_there(tmp_path):
    with SolverClient("tcp://127.0.0.1:9") as client, pytest.raises(MegasamError) as caught:
        client.connect(0.3)
    assert caught.value.code == "server_not_reachable"
    with pytest.raises(MegasamError) as caught:
        SolverClient("not an address")
    assert caught.value.code == "server_address_invalid"


def test_noise_is_answered_with_errors_and_changes_nothing(server, raw, client, make_plate):
    raw.ask(hello())
    memory = psutil.Process(server.pid).memory_info().rss
    dice = random.Random(1)
    good = [
        encode(ListJobs(1)),
        encode(Attach(2, ID)),
        encode(Fetch(3, ID, "a", 0, 10)),
        encode(Chunk(4, "a" * 64, 0, b"data" * 100)),
        encode(Submit(5, ID, "n", Media([MediaFile("a.png", "b" * 64, 3)]), None, {"a": 1})),
    ]
    for _ in range(1500):
        data = bytearray(dice.choice(good))
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.3:
            del data[dice.randrange(len(data)) :]
        raw.ask(bytes(data))
    for noise in [b"", b"\x00", b"\xc1", os.urandom(5000), b"\xdd\xff\xff\xff\xff", b"\x91" * 9999]:
        assert raw.ask(noise).code.startswith("message_")
    # Lists of lists that claim four billion entries each.
    bomb = b"".join(b"\xdd\xff\xff\xff\xff" for _ in range(1000))
    assert raw.ask(bomb).code == "message_malformed"
    assert raw.ask(encode(ListJobs(1)), b"second part").code == "message_malformed"
    assert raw.ask(encode(Welcome(1, "x", ID))).code == "message_unexpected"
    assert psutil.Process(server.pid).memory_info().rss - memory < 30e6
    job = client.submit(client.upload(make_plate()), SolveSettings())
    assert client.wait(job.job, timeout=15).state == "done"


def test_oversized_message_ends_that_connection_only(server, raw, client):
    raw.ask(hello())
    raw.socket.send(b"x" * (MAX_MESSAGE_BYTES + 1000))
    assert not raw.socket.poll(500)
    assert client.list_jobs() == []


def test_file_names_cannot_leave_the_job_folder(client, make_plate):
    media = client.upload(make_plate(frames=1))
    for name in ["../../evil.exr", "/etc/evil.exr", "C:\\evil.exr", "a\0b.exr"]:
        plate = Media(files=[replace(media.files[0], name=name)])
        result = client.wait(client.submit(plate, SolveSettings()).job, timeout=15)
        (used,) = result.result["plate"]
        assert "/" not in used and "\\" not in used and ".." not in used
    for name in ["..", "evil.sh", "   ", "/"]:
        with pytest.raises(MegasamError):
            client.submit(Media(files=[replace(media.files[0], name=name)]), SolveSettings())


def test_only_listed_artefacts_can_be_fetched(client, make_plate):
    job = client.submit(client.upload(make_plate()), SolveSettings())
    result = client.wait(job.job, timeout=15)
    for path in ["../worker.log", "/etc/passwd", "depth", "depth/../../worker.log", ""]:
        with pytest.raises(MegasamError) as caught:
            client._connection.request(Fetch, job=result.job, path=path, offset=0, length=100)
        assert caught.value.code in ("artefact_unknown", "message_malformed")


def test_setting_out_of_range_and_full_queue_are_refused(server, client, make_plate):
    plate = client.upload(make_plate())
    with pytest.raises(MegasamError) as caught:
        fields = {"submission": ID, "name": "", "plate": plate, "masks": None}
        client._connection.request(Submit, **fields, settings={"tracking_resolution": 7})
    assert caught.value.code == "setting_out_of_range"


@pytest.mark.parametrize(
    "address",
    ["tcp://0.0.0.0:5599", "tcp://*:5599", "tcp://192.168.1.5:1", "tcp://[::]:1", "tcp://host:1"],
)
def test_addresses_that_others_reach_are_refused(address, tmp_path):
    with pytest.raises(MegasamError) as caught:
        SolverServer(ServerOptions(state=tmp_path / "state", bind=address))
    assert caught.value.code == "curve_required" and "CURVE" in caught.value.message
    assert not (tmp_path / "state").exists()


def test_loopback_addresses_are_taken():
    for address in ["tcp://127.0.0.1:0", "tcp://127.1.2.3:5599", "tcp://[::1]:5599"]:
        check_bind(ServerOptions(Path(), bind=address))
    for address in ["127.0.0.1:5599", "tcp://127.0.0.1", "tcp://127.0.0.1:http", "ipc:///tmp/x"]:
        with pytest.raises(MegasamError):
            check_bind(ServerOptions(Path(), bind=address))
