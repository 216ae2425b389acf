"""CURVE, the allow-list, and clients that want to know of each other's jobs: real sockets."""

from __future__ import annotations

import dataclasses
import hashlib
import time

import pytest
import zmq
from megasam_server.service import counters as names
from megasam_server.service.options import CurveOptions, ServerOptions, UploadLimits
from megasam_server.service.server import SolverServer
from megasam_shared.connection import Connection
from megasam_shared.errors import MegasamError
from megasam_shared.keys import new_key_pair, write_key_pair
from megasam_shared.protocol import (
    PROTOCOL_VERSION,
    Chunk,
    Error,
    Fetch,
    FileContent,
    Hello,
    Media,
    MediaFile,
    Offer,
    Submit,
)
from megasam_shared.server_keys import ClientKeys
from megasam_shared.settings import SolveSettings
from megasam_shared.wire import decode, encode

from tests.server.service.curve_server import CurveStudio
from tests.server.service.serving import wait_for


@pytest.fixture
def studio(tmp_path):
    with CurveStudio(tmp_path) as running:
        yield running


def refused(call, *args, **kwargs) -> MegasamError:
    with pytest.raises(MegasamError) as caught:
        call(*args, **kwargs)
    return caught.value


def test_allowed_client_solves_over_an_encrypted_connection(studio, make_plate, tmp_path):
    client = studio.client(studio.keys("anna"))
    job = client.submit(client.upload(make_plate()), SolveSettings())
    result = client.wait(job.job, timeout=20)
    assert result.state == "done"
    paths = client.fetch(job.job, result.artefacts, tmp_path / "out")
    assert len(paths) == len(result.artefacts) > 3
    assert studio.count(names.REFUSED_KEYS) == 0


def test_unknown_key_is_refused_counted_and_comes_in_once_it_is_allowed(studio):
    keys = studio.keys()
    client = studio.client(keys, connect=False)
    error = refused(client.connect, 10)
    assert error.code == "server_refuses_key" and keys.own.public in error.hint
    assert studio.count(names.REFUSED_KEYS) >= 1
    assert studio.count(names.MESSAGES) == 0
    studio.allowed.add("anna", keys.own.public)
    wait_for(lambda: client.connected)
    assert client.list_jobs() == []


def test_client_without_encryption_is_refused_and_counted(studio):
    client = studio.client(None, connect=False)
    assert refused(client.connect, 2).code == "server_handshake_failed"
    wait_for(lambda: studio.count(names.REFUSED_HANDSHAKES) >= 1)
    assert studio.count(names.MESSAGES) == 0


def test_client_that_expects_another_server_does_not_talk_to_this_one(studio):
    keys = studio.keys("anna")
    client = studio.client(ClientKeys(keys.own, new_key_pair().public), connect=False)
    assert refused(client.connect, 1).code == "server_handshake_failed"
    wait_for(lambda: studio.count(names.REFUSED_HANDSHAKES) >= 1)
    assert studio.count(names.MESSAGES) == 0


def test_encrypting_client_does_not_talk_to_a_server_in_the_clear(server):
    keys = ClientKeys(new_key_pair(), new_key_pair().public)
    connection = Connection(server.address, keys=keys)
    try:
        assert refused(connection.wait_until_connected, 2).code == "server_handshake_failed"
    finally:
        connection.close()


def test_revoked_client_loses_its_connection_and_keeps_its_jobs(studio, make_plate):
    keys = studio.keys("anna")
    client, other = studio.client(keys), studio.client(studio.keys("ben"))
    job = client.submit(client.upload(make_plate()), SolveSettings())
    client.wait(job.job, timeout=20)
    assert studio.allowed.remove("anna")
    wait_for(lambda: not client.connected)
    assert refused(client.list_jobs).code == "server_refuses_key"
    again = studio.client(keys, connect=False)
    assert refused(again.connect, 10).code == "server_refuses_key"
    assert other.list_jobs() == []
    studio.allowed.add("anna", keys.own.public)
    assert [known.job for known in studio.client(keys).list_jobs()] == [job.job]


def test_list_that_is_damaged_while_the_server_runs_locks_nobody_out(studio):
    keys = studio.keys("anna")
    studio.client(keys)
    text = studio.allowed.path.read_text()
    studio.allowed.path.write_text(text + "a line that is none\n")
    time.sleep(0.7)
    assert studio.client(keys).list_jobs() == []


@pytest.fixture
def finished(studio, make_plate):
    """A job of anna's that is over: her client, the job, its first artefact, its plate."""
    anna = studio.client(studio.keys("anna"))
    plate = anna.upload(make_plate(bytes_each=3000))
    job = anna.submit(plate, SolveSettings()).job
    result = anna.wait(job, timeout=20)
    return anna, job, result.artefacts[0], plate


def test_clients_cannot_see_stop_or_fetch_each_others_jobs(studio, finished):
    anna, job, artefact, _ = finished
    ben = studio.client(studio.keys("ben"))
    assert ben.list_jobs() == []
    nowhere = "0" * 32
    fetch = {"path": artefact.path, "offset": 0, "length": 10}
    for ask in (
        ben.attach,
        ben.cancel,
        lambda job: ben._connection.request(Fetch, job=job, **fetch),
    ):
        foreign, missing = refused(ask, job), refused(ask, nowhere)
        assert foreign.code == "job_unknown"
        assert str(foreign).replace(job, "") == str(missing).replace(nowhere, "")
    assert len(anna.list_jobs()) == 1
    assert anna._connection.request(Fetch, job=job, **fetch).data
    assert studio.count(names.REFUSED_MESSAGES, "job_unknown") == 6


def test_clients_hear_nothing_of_each_others_jobs(studio, make_plate):
    anna, ben = (studio.client(studio.keys(name)) for name in ("anna", "ben"))
    job = anna.submit(anna.upload(make_plate()), SolveSettings()).job
    refused(ben.attach, job)
    anna.wait(job, timeout=20)
    assert [e for e in ben.poll() if getattr(e, "job", None)] == []


def test_same_submission_number_of_two_clients_is_two_jobs(studio, make_plate):
    plates, jobs = make_plate(), set()
    for name in ("anna", "ben"):
        client = studio.client(studio.keys(name))
        for _ in range(2):
            job = client._connection.request(
                Submit,
                submission="a" * 32,
                name="",
                plate=client.upload(plates),
                masks=None,
                settings={},
            )
            jobs.add((name, job.job.job))
    assert len(jobs) == 2


def test_uploads_of_one_client_are_unknown_to_another(studio, finished):
    """Neither by offering their hash, nor by naming it in a job."""
    _, _, _, plate = finished
    ben = studio.client(studio.keys("ben"))
    files = [FileContent(file.sha256, file.size) for file in plate.files]
    need = ben._connection.request(Offer, files=files)
    assert [(wanted.sha256, wanted.offset) for wanted in need.files] == [
        (file.sha256, 0) for file in files
    ]
    assert refused(ben.submit, plate, SolveSettings()).code == "upload_missing"


def test_half_sent_file_of_one_client_cannot_be_spoilt_by_another(studio):
    data = b"the frame" * 100
    content = FileContent(hashlib.sha256(data).hexdigest(), len(data))
    anna, ben = (studio.client(studio.keys(name))._connection for name in ("anna", "ben"))
    anna.request(Offer, files=[content])
    anna.request(Chunk, sha256=content.sha256, offset=0, data=data[:300])
    assert ben.request(Offer, files=[content]).files[0].offset == 0
    with pytest.raises(MegasamError) as caught:
        ben.request(Chunk, sha256=content.sha256, offset=0, data=b"x" * len(data))
    assert caught.value.code == "upload_corrupt"
    taken = anna.request(Chunk, sha256=content.sha256, offset=300, data=data[300:])
    assert taken.received == len(data)


def test_shared_jobs_are_everybodys(tmp_path, make_plate):
    with CurveStudio(tmp_path, shared_jobs=True) as studio:
        anna, ben = (studio.client(studio.keys(name)) for name in ("anna", "ben"))
        plate = anna.upload(make_plate())
        job = anna.submit(plate, SolveSettings()).job
        assert [known.job for known in ben.list_jobs()] == [job]
        assert ben.wait(job, timeout=20).state == "done"
        assert ben._connection.request(Offer, files=[]).files == []
        sent = []
        ben.upload(make_plate(), lambda done, total: sent.append((done, total)))
        assert len(sent) == 1 and sent[0][0] == sent[0][1]  # it was there already
        assert ben.cancel(job).state == "done"


class ChosenIdentity:
    """A client with an allowed key that gives itself a routing id."""

    def __init__(self, studio: CurveStudio, keys: ClientKeys, identity: bytes) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.routing_id = identity
        self.socket.curve_publickey = bytes.fromhex(keys.own.public)
        self.socket.curve_secretkey = bytes.fromhex(keys.own.secret)
        self.socket.curve_serverkey = bytes.fromhex(keys.server)
        self.socket.connect(studio.address)

    def ask(self, message):
        self.socket.send(encode(message))
        assert self.socket.poll(5000)
        return decode(self.socket.recv())


def test_chosen_routing_id_gets_no_session(studio):
    raw = ChosenIdentity(studio, studio.keys("anna"), b"ben")
    answer = raw.ask(Hello(PROTOCOL_VERSION, "1", "raw"))
    assert isinstance(answer, Error) and "routing id" in answer.message
    assert raw.ask(Offer(1, [])).code == "hello_required"
    raw.context.destroy(linger=0)


def test_server_without_curve_listens_to_this_machine_only(tmp_path):
    pair = new_key_pair()
    write_key_pair(tmp_path / "server.key", pair)
    options = ServerOptions(state=tmp_path / "state", bind="tcp://0.0.0.0:0")
    error = refused(SolverServer, options)
    assert error.code == "curve_required" and "megasam keys" in error.hint
    curve = CurveOptions(tmp_path / "server.key", tmp_path / "nobody")
    SolverServer(dataclasses.replace(options, curve=curve))._close()
    (tmp_path / "server.key").chmod(0o644)
    assert refused(SolverServer, dataclasses.replace(options, curve=curve)).code == (
        "key_not_private"
    )


def test_upload_limits_are_told_before_anything_is_sent(tmp_path, make_plate):
    limits = UploadLimits(files=3, file_bytes=5000, submission_bytes=8000)
    with CurveStudio(tmp_path, uploads=limits) as studio:
        client = studio.client(studio.keys("anna"))
        for frames, size, code in [
            (4, 100, "too_many_files"),
            (1, 6000, "file_too_large"),
            (3, 3000, "upload_too_large"),
        ]:
            files = make_plate(frames=frames, bytes_each=size)
            assert refused(client.upload, files).code == code
            media = Media(files=[MediaFile(f"a.{i}.exr", "a" * 64, size) for i in range(frames)])
            assert refused(client.submit, media, SolveSettings()).code == code
            assert studio.count(names.REFUSED_MESSAGES, code) == 2
        plate = client.upload(make_plate(frames=2, bytes_each=3000))
        masks = Media(files=[MediaFile(f"m.{i}.png", "b" * 64, 10) for i in range(2)])
        error = refused(client.submit, plate, SolveSettings(), masks=masks)
        assert error.code == "too_many_files"
