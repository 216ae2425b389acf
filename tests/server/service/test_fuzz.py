"""A server under malformed, truncated, oversized, nested and type-confused messages.

From a client with an allowed key and from peers without one. Nothing crashes, memory does not grow,
every refusal is counted, and good clients are served all the while.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgpack
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megasam_server.service import counters as names
from megasam_shared.protocol import PROTOCOL_VERSION, Error, Heartbeat, Hello
from megasam_shared.server_keys import ClientKeys
from megasam_shared.settings import SolveSettings
from megasam_shared.wire import decode, encode

from tests.server.service.curve_server import CurveStudio, CurveStudioApart
from tests.server.service.fuzzing import Mutator, raw_connection, record, talk, too_long
from tests.server.service.serving import wait_for

BATCH = 200
HELLO = encode(Hello(PROTOCOL_VERSION, "1", "fuzzer"))


class Fuzzer:
    """A socket with a key that keeps no rules, and the books of what came of its messages."""

    def __init__(self, studio: CurveStudio, keys: ClientKeys) -> None:
        self._studio = studio
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.curve_publickey = bytes.fromhex(keys.own.public)
        self._socket.curve_secretkey = bytes.fromhex(keys.own.secret)
        self._socket.curve_serverkey = bytes.fromhex(keys.server)
        self._socket.connect(studio.address)
        self.sent = 0
        self.errors: Counter[str] = Counter()

    def send(self, messages: list[list[bytes]]) -> None:
        """Send all of them; return when the server has answered."""
        before = self._studio.count(names.MESSAGES)
        for parts in messages:
            self._socket.send_multipart(parts)
            self._read(0)
        self.sent += len(messages)
        wait_for(lambda: self._studio.count(names.MESSAGES) >= before + len(messages), 60)
        # A heartbeat comes back behind the answers that were given at once.
        self._socket.send(HELLO)
        self._socket.send(encode(Heartbeat()))
        self.sent += 2
        while not self._read(10_000):
            pass

    def send_unread(self, data: bytes) -> None:
        """Send a message of which the server will not read more than its length."""
        self._socket.send(data)

    def settle(self) -> None:
        """Take the answers that came from background work."""
        wait_for(lambda: self._read(20) or self.books_agree(), 60)

    def books_agree(self) -> bool:
        """Each refusal that the server has counted has come here."""
        return sum(self.errors.values()) == self._studio.count(names.REFUSED_MESSAGES)

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _read(self, timeout: int) -> bool:
        """Note what has come; True when a heartbeat was among it."""
        answered = False
        while self._socket.poll(timeout):
            timeout = 0
            message = decode(self._socket.recv())
            if isinstance(message, Error):
                self.errors[message.code] += 1
            answered |= isinstance(message, Heartbeat)
        return answered


@pytest.fixture
def studio(tmp_path):
    with CurveStudio(tmp_path, queue_limit=5) as running:
        yield running


@pytest.fixture
def studio_apart(tmp_path):
    with CurveStudioApart(tmp_path, queue_limit=5) as running:
        yield running


def record_a_day(studio: CurveStudio, plate: list[Path], out: Path, monkeypatch) -> list[bytes]:
    """What a client says when it uploads, submits, watches, lists, cancels and fetches."""

    def exchange() -> None:
        client = studio.client(studio.keys("anna"))
        media = client.upload(plate)
        job = client.submit(media, SolveSettings(), masks=media, name="sh010").job
        result = client.wait(job, timeout=20)
        client.fetch(job, result.artefacts, out)
        client.list_jobs()
        client.cancel(job)
        client.close()

    said = record(monkeypatch, exchange)
    kinds = {msgpack.unpackb(data)["type"] for data in said}
    assert kinds >= {"hello", "offer", "chunk", "submit", "attach", "fetch", "list_jobs", "cancel"}
    return said


@pytest.fixture
def recorded(studio, make_plate, monkeypatch, tmp_path) -> list[bytes]:
    return record_a_day(studio, make_plate(frames=4), tmp_path / "out", monkeypatch)


@pytest.fixture
def fuzzer(studio, recorded):
    with contextlib.closing(Fuzzer(studio, studio.keys("fuzzer"))) as running:
        yield running


def attack_with_key(
    studio: CurveStudio, fuzzer: Fuzzer, recorded: list[bytes], count: int, seed: int = 0
) -> None:
    """``count`` damaged messages; the server counts every one, and every refusal of one."""
    messages = itertools.islice(Mutator(recorded, seed), count)
    counted = studio.count(names.MESSAGES)
    fuzzer.sent = 0
    while batch := list(itertools.islice(messages, BATCH)):
        fuzzer.send(batch)
    fuzzer.settle()
    assert studio.count(names.MESSAGES) - counted == fuzzer.sent >= count
    assert fuzzer.books_agree()


def attack_without_key(studio: CurveStudio, recorded: list[bytes], count: int, seed: int) -> None:
    """``count`` connections that never become one; no message of theirs is read."""
    dice = random.Random(seed)
    messages, refused = studio.count(names.MESSAGES), refused_peers(studio)
    said = [raw_connection(dice, dice.choice(recorded)) for _ in range(count)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: talk(studio.address, data), said))
    wait_for(lambda: refused_peers(studio) - refused >= count, 30)
    assert refused_peers(studio) - refused == count
    assert studio.count(names.MESSAGES) == messages


def refused_peers(studio: CurveStudio) -> int:
    """Connections that ended without having got past the handshake."""
    return studio.count(names.CONNECTIONS) - studio.count(names.ADMITTED)


def serves(studio: CurveStudio, name: str, plate: list, tmp_path) -> None:
    """A good client is served as if nothing were."""
    client = studio.client(studio.keys(name))
    job = client.submit(client.upload(plate), SolveSettings()).job
    result = client.wait(job, timeout=60)
    assert result.state == "done"
    assert client.fetch(job, result.artefacts, tmp_path / name)
    assert client.list_jobs()[0].job == job
    client.close()


def test_damaged_messages_with_a_key(studio, fuzzer, recorded, make_plate, tmp_path):
    attack_with_key(studio, fuzzer, recorded, 3000)
    assert {"message_malformed", "message_too_large", "message_unknown_type"} <= set(fuzzer.errors)
    assert "internal_error" not in fuzzer.errors
    serves(studio, "ben", make_plate(), tmp_path)


def test_noise_from_peers_without_a_key(studio, recorded, make_plate, tmp_path):
    attack_without_key(studio, recorded, 300, seed=3)
    serves(studio, "ben", make_plate(), tmp_path)


def test_messages_over_the_size_that_is_read_end_their_connection(studio, make_plate, tmp_path):
    keys, dice = studio.keys("fuzzer"), random.Random(1)
    before, messages = studio.count(names.DISCONNECTIONS), studio.count(names.MESSAGES)
    for _ in range(3):
        fuzzer = Fuzzer(studio, keys)
        fuzzer.send_unread(too_long(dice))
        ended = studio.count(names.DISCONNECTIONS)
        wait_for(lambda ended=ended: studio.count(names.DISCONNECTIONS) > ended)
        fuzzer.close()
    assert studio.count(names.DISCONNECTIONS) - before >= 3
    assert studio.count(names.MESSAGES) == messages
    serves(studio, "ben", make_plate(), tmp_path)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=80)
    | st.binary(max_size=80),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
types = st.sampled_from(
    ["hello", "offer", "chunk", "submit", "cancel", "list_jobs", "attach", "fetch", "heartbeat"]
    + ["welcome", "result", "list_checkpoints"]
)
fields = st.sampled_from(
    ["request", "job", "files", "sha256", "offset", "data", "path", "length", "plate", "masks"]
    + ["settings", "submission", "name", "protocol", "version", "client", "priority"]
)
messages = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda kind, rest: msgpack.packb({"type": kind} | rest),
        types,
        st.dictionaries(fields, values, max_size=8),
    ),
    values.map(lambda value: msgpack.packb(value)),
)


def generated(studio: CurveStudio, fuzzer: Fuzzer, examples: int) -> None:
    """Messages as hypothesis makes them up, forty at a time."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(messages, min_size=40, max_size=40))
    def send(batch: list[bytes]) -> None:
        fuzzer.send([[data] for data in batch])
        fuzzer.settle()

    send()
    assert "internal_error" not in fuzzer.errors


def test_generated_messages(studio, fuzzer, make_plate, tmp_path):
    generated(studio, fuzzer, 6)
    serves(studio, "ben", make_plate(), tmp_path)


@pytest.mark.slow
def test_two_hundred_thousand_messages(studio_apart, make_plate, monkeypatch, tmp_path, capsys):
    """The figures are printed."""
    studio, plate = studio_apart, make_plate(frames=4)
    recorded = record_a_day(studio, plate, tmp_path / "out", monkeypatch)
    fuzzer, dice = Fuzzer(studio, studio.keys("fuzzer")), random.Random(5)
    started, total, levels = time.monotonic(), 0, []
    for number in range(6):
        attack_with_key(studio, fuzzer, recorded, 24_000, seed=number)
        attack_without_key(studio, recorded, 9_000, seed=number)
        for _ in range(10):
            large = Fuzzer(studio, studio.keys("large"))
            ended = studio.count(names.DISCONNECTIONS)
            large.send_unread(too_long(dice))
            wait_for(lambda ended=ended: studio.count(names.DISCONNECTIONS) > ended)
            large.close()
        generated(studio, fuzzer, 20)
        serves(studio, f"client{number}", plate, tmp_path)
        total += 24_000 + 9_000 + 10 + 20 * 40
        levels.append(round(studio.resident_mib(), 1))
    fuzzer.close()
    with capsys.disabled():
        print(f"\n{total} messages and connections in {time.monotonic() - started:.0f} s")
        print(f"memory of the server after each round, MiB: {levels}")
        print(f"refused peers: {refused_peers(studio)}; refusals: {dict(fuzzer.errors)}")
    assert total >= 200_000
    assert "internal_error" not in fuzzer.errors
    # The first round fills caches and what malloc keeps; after it, nothing grows.
    assert max(levels[1:]) - levels[0] < 20, levels
