"""A server under malformed, truncated, oversized, nested and type-confused messages.

From a client with an allowed key and from peers without one. Nothing crashes, memory does not grow,
every refusal is counted, and good clients are served all the while.
"""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import msgpack
import psutil
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megasam_server.service import counters as names
from megasam_shared.protocol import PROTOCOL_VERSION, Error, Heartbeat, Hello
from megasam_shared.server_keys import ClientKeys
from megasam_shared.settings import SolveSettings
from megasam_shared.wire import decode, encode

from tests.server.service.curve_server import CurveStudio, wait_for
from tests.server.service.fuzzing import Mutator, raw_connection, record, talk, too_long

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
        self._socket.connect(studio.server.address)
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
def recorded(studio, make_plate, monkeypatch, tmp_path) -> list[bytes]:
    """A client's whole day: upload, submit, watch, list, cancel, fetch."""

    def exchange() -> None:
        client = studio.client(studio.keys("anna"))
        plate = client.upload(make_plate(frames=4))
        job = client.submit(plate, SolveSettings(), masks=plate, name="sh010").job
        result = client.wait(job, timeout=20)
        client.fetch(job, result.artefacts, tmp_path / "out")
        client.list_jobs()
        client.cancel(job)
        client.close()

    said = record(monkeypatch, exchange)
    kinds = {msgpack.unpackb(data)["type"] for data in said}
    assert kinds >= {"hello", "offer", "chunk", "submit", "attach", "fetch", "list_jobs", "cancel"}
    return said


@pytest.fixture
def fuzzer(studio, recorded):
    running = Fuzzer(studio, studio.keys("fuzzer"))
    yield running
    running.close()


def resident_mib() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


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
        list(pool.map(lambda data: talk(studio.server.address, data), said))
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
        fuzzer._socket.send(too_long(dice))
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
def test_two_hundred_thousand_messages(studio, fuzzer, recorded, make_plate, tmp_path, capsys):
    """The figures are printed; run with -s to see them."""
    started, total = time.monotonic(), 0
    attack_with_key(studio, fuzzer, recorded, 20_000)
    attack_without_key(studio, recorded, 5_000, seed=0)
    total += 25_000
    before = resident_mib()
    levels = []
    for round_number in range(5):
        attack_with_key(studio, fuzzer, recorded, 25_000, seed=1 + round_number)
        attack_without_key(studio, recorded, 10_000, seed=1 + round_number)
        total += 35_000
        serves(studio, f"client{round_number}", make_plate(), tmp_path)
        levels.append(resident_mib() - before)
    generated(studio, fuzzer, 150)
    total += 150 * 40
    for _ in range(50):
        over = Fuzzer(studio, studio.keys(f"over{total}"))
        ended = studio.count(names.DISCONNECTIONS)
        over._socket.send(too_long(random.Random(total)))
        wait_for(lambda ended=ended: studio.count(names.DISCONNECTIONS) > ended)
        over.close()
        total += 1
    serves(studio, "last", make_plate(), tmp_path)
    levels.append(resident_mib() - before)
    assert total >= 200_000
    assert "internal_error" not in fuzzer.errors
    assert max(levels) < 30, levels
    with capsys.disabled():
        print(f"\n{total} messages and connections in {time.monotonic() - started:.0f} s")
        print(f"memory after each round, MiB more than after the first: {levels}")
        print(f"refused peers: {refused_peers(studio)}; refusals: {dict(fuzzer.errors)}")
