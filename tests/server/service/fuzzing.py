"""Messages that nobody should send, made from ones that a real client has sent."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack
from megasam_shared.connection import Connection
from megasam_shared.wire import MAX_MESSAGE_BYTES, MAX_NESTING

Tree = Any


def record(monkeypatch, exchange: Callable[[], None]) -> list[bytes]:
    """What clients say during ``exchange``, each different message once; chunks are shortened."""
    said: dict[bytes, None] = {}
    say = Connection._say

    def listen(connection: Connection, data: bytes) -> bool:
        if len(data) < 20_000:
            said[data] = None
        return say(connection, data)

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "_say", listen)
        exchange()
    return list(said)


class Mutator:
    """An endless source of damaged messages, the same ones for the same seed.

    Args:
        recorded: whole messages to begin with.
    """

    def __init__(self, recorded: Sequence[bytes], seed: int) -> None:
        self._recorded = recorded
        self._dice = random.Random(seed)
        self._ways = [
            *(self._flipped, self._truncated, self._spliced, self._stretched),
            *(self._confused, self._confused, self._confused, self._nested, self._lying),
        ]

    def __iter__(self) -> Iterator[list[bytes]]:
        """Messages as the parts that they are sent in; nearly all have one."""
        while True:
            parts = [self._dice.choice(self._ways)(self._dice.choice(self._recorded))]
            if len(parts[0]) > MAX_MESSAGE_BYTES:
                continue  # would end the connection: see too_long
            if self._dice.random() < 0.01:
                parts.append(self._dice.choice([b"", b"second part", parts[0]]))
            yield parts

    def _flipped(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        for _ in range(self._dice.randint(1, 5)):
            damaged[self._dice.randrange(len(damaged))] = self._dice.randrange(256)
        return bytes(damaged)

    def _truncated(self, data: bytes) -> bytes:
        return data[: self._dice.randrange(len(data))]

    def _spliced(self, data: bytes) -> bytes:
        other = self._dice.choice(self._recorded)
        cut, start = self._dice.randrange(len(data)), self._dice.randrange(len(other))
        return data[:cut] + other[start:]

    def _stretched(self, data: bytes) -> bytes:
        at = self._dice.randrange(len(data))
        return data[:at] + self._dice.randbytes(self._dice.choice([1, 7, 300, 5000])) + data[at:]

    def _nested(self, data: bytes) -> bytes:
        depth = self._dice.choice([MAX_NESTING, MAX_NESTING + 1, 500, 20_000])
        head = self._dice.choice([b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"])
        return head * depth + self._dice.choice([b"\xc0", data, b""])

    def _lying(self, data: bytes) -> bytes:
        """Claims of four billion items, or of bytes that are not there."""
        head = self._dice.choice(
            [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xdc", b"\xde", b"\xc9", b"\xd8", b"\xc1"]
        )
        claim = head + self._dice.choice([b"\xff" * 4, b"\x7f" * 4, b"\x00\x10\x00\x00"])
        at = self._dice.choice([0, self._dice.randrange(len(data))])
        return data[:at] + claim * self._dice.choice([1, 3, 1000]) + data[at:]

    def _confused(self, data: bytes) -> bytes:
        """A well-formed message with wrong types, sizes or keys in it."""
        tree = msgpack.unpackb(data)
        for _ in range(self._dice.randint(1, 3)):
            tree = self._changed(tree)
        return msgpack.packb(tree, unicode_errors="surrogatepass")

    def _changed(self, tree: Tree) -> Tree:
        dice = self._dice
        if isinstance(tree, dict) and tree and dice.random() < 0.9:
            tree = dict(tree)
            key = dice.choice(list(tree))
            what = dice.random()
            if what < 0.1:
                del tree[key]
            elif what < 0.15:
                tree[dice.choice(["x", "type", "request", b"\xff", "a" * 5000])] = self._odd()
            elif what < 0.2:
                tree = {dice.choice([0, None, "a", b"b"]): tree}
            else:
                tree[key] = self._changed(tree[key])
            return tree
        if isinstance(tree, list) and tree and dice.random() < 0.8:
            tree = list(tree)
            if dice.random() < 0.1:
                return tree * dice.choice([2, 50, 2000])
            at = dice.randrange(len(tree))
            tree[at] = self._changed(tree[at])
            return tree
        return self._odd()

    def _odd(self) -> Tree:
        dice = self._dice
        return dice.choice(
            [
                *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**63)),
                *(0.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan")),
                *("", "\0", "..", "/etc/passwd", "../" * 50, "a" * 70_000, "\ud800", "%s%n{0}"),
                *("0" * 32, "0" * 64, "done", "hello", b"", b"\0" * 100, [], {}, [[[]]], {"a": {}}),
                *([0] * 5000, {str(i): i for i in range(500)}, [{"type": "submit"}]),
                dice.randbytes(dice.randrange(200)),
            ]
        )


def too_long(dice: random.Random) -> bytes:
    """A message over the limit, of which libzmq takes nothing."""
    return dice.choice([b"\xc6", b"\0", b"\x81"]) * (MAX_MESSAGE_BYTES + dice.choice([1, 5000]))


# What a ZeroMQ client says first: signature, version 3.1, mechanism, role; then its commands.
_GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01"


def raw_connection(dice: random.Random, message: bytes) -> bytes:
    """Bytes of a peer that has no key: half greetings, wrong mechanisms, forged commands, noise."""
    mechanism = dice.choice([b"NULL", b"CURVE", b"PLAIN", dice.randbytes(20)]).ljust(20, b"\0")
    greeting = _GREETING + mechanism + bytes([dice.choice([0, 1, 255])]) + bytes(31)
    command = dice.choice(
        [
            b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0",
            b"\x05HELLO\x01\0" + bytes(72) + dice.randbytes(120),
            b"\x05HELLO" + dice.randbytes(dice.randrange(250)),
            b"\x08INITIATE" + dice.randbytes(dice.randrange(250)),
            dice.randbytes(dice.randrange(250)),
        ]
    )
    framed = b"\x04" + bytes([min(255, len(command))]) + command[:255]
    claimed = b"\x06" + struct.pack(">Q", dice.choice([2**63 - 1, 2**40, 1 << 24])) + command
    said = greeting + dice.choice([framed, framed, claimed, b""])
    said += b"\x02" + struct.pack(">Q", len(message)) + message
    what = dice.random()
    if what < 0.3:
        damaged = bytearray(said)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(min(len(damaged), 120))] = dice.randrange(256)
        said = bytes(damaged)
    elif what < 0.5:
        said = said[: dice.randrange(len(said))]
    elif what < 0.6:
        said = dice.randbytes(dice.randrange(300))
    return said


def talk(address: str, said: bytes) -> None:
    """Connect, say it, and go without a word; nothing of the connection is left on either side."""
    host, port = address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            peer.sendall(said)
            peer.shutdown(socket.SHUT_WR)
            # Until the server has had enough of it.
            while peer.recv(4096):
                pass
        except OSError:
            pass  # it already had
