"""Messages survive the wire; what is no message is refused before it is decoded."""

from __future__ import annotations

import math

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megasam_shared import wire
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import (
    Artefact,
    Chunk,
    Error,
    ErrorInfo,
    Heartbeat,
    Hello,
    JobChanged,
    JobInfo,
    Jobs,
    ListJobs,
    Media,
    MediaFile,
    Progress,
    Result,
    Submit,
)
from megasam_shared.wire import check_structure, decode, encode, request_number

ID, SHA = "0123456789abcdef" * 2, "0123456789abcdef" * 4

MESSAGES = [
    Heartbeat(),
    Hello(1, "0.1.0", "maya"),
    Chunk(3, SHA, 1 << 40, b"\x00\xff"),
    Submit(1, ID, "sh010", Media([MediaFile("ä.exr", SHA, 5)]), Media(path="/shows"), {"a": [1]}),
    JobChanged(0, JobInfo(ID, "n", "queued", 1.5, error=ErrorInfo("code", "message"))),
    Jobs(2, [JobInfo(ID, "n", "done", 1.0, 2.0, 3.0)]),
    Progress(ID, "flow", 1.0, 4.0, "pair 1", 0.25, ["metric_depth"], 3.0, None, b"\xff\xd8"),
    Result(0, ID, "done", {"m": [[1.0]]}, [Artefact("depth/a.exr", 3, SHA)]),
    Error(1, "code", "message", "hint"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.type_name)
def test_messages_survive_the_wire(message):
    assert decode(encode(message)) == message


def packed(message, **changes) -> bytes:
    content = msgpack.unpackb(encode(message)) | changes
    return msgpack.packb({key: value for key, value in content.items() if value is not ...})


def test_unknown_keys_are_ignored_and_missing_options_take_their_default():
    assert decode(packed(ListJobs(5), colour="red")) == ListJobs(5)
    assert decode(packed(Hello(1, "v", "x"), client=...)) == Hello(1, "v", "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (packed(Hello(1, "v"), protocol="1"), "hello.protocol must be int"),
        (packed(Hello(1, "v"), protocol=True), "hello.protocol must be int"),
        (packed(Hello(1, "v"), version=...), "hello.version is missing"),
        (packed(Hello(1, "v"), version="v" * 300), "hello.version: 300 is outside"),
        (packed(ListJobs(1), request=-1), "list_jobs.request"),
        (packed(MESSAGES[2], sha256="../" * 21 + "a"), "chunk.sha256 is not of the form"),
        (packed(MESSAGES[2], data="text"), "chunk.data must be bytes"),
        (packed(MESSAGES[2], data=b"x" * (1 << 20) + b"x"), "chunk.data"),
        (packed(MESSAGES[3], plate=[]), "submit.plate must be a map"),
        (packed(MESSAGES[3], plate={"files": {}}), "submit.plate.files must be a list"),
        (packed(MESSAGES[3], settings=[]), "submit.settings must be dict"),
        (packed(MESSAGES[6], fraction=math.nan), "progress.fraction must be a finite number"),
        (packed(MESSAGES[6], eta=math.inf), "progress.eta must be a finite number"),
        (packed(MESSAGES[7], state="paused"), "result.state = 'paused' is none of done"),
        (msgpack.packb([1, 2]), "must be a map"),
        (msgpack.packb({1: 2}), "no valid msgpack"),
        (msgpack.packb({"type": msgpack.ExtType(1, b"x")}), "extension"),
        (b"\xa2\xff\xfe", "no valid msgpack"),
        (encode(ListJobs(1)) + b"\x00", "length"),
        (b"", "ends too early"),
        (b"\xdd\xff\xff\xff\xff", "more items than it has bytes"),
        (b"\xc6\xff\xff\xff\xff", "length"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(data, words):
    with pytest.raises(MegasamError, match=words) as caught:
        decode(data)
    assert caught.value.code == "message_malformed"


def test_unknown_type_is_an_error():
    for data in [msgpack.packb({"type": "dance"}), msgpack.packb({}), msgpack.packb({"type": 1})]:
        with pytest.raises(MegasamError) as caught:
            decode(data)
        assert caught.value.code == "message_unknown_type"


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 100 + b"\xc0",
        b"x" * (wire.MAX_MESSAGE_BYTES + 1),
        msgpack.packb([0] * (wire.MAX_ITEMS + 1)),
    ],
    ids=["nesting", "bytes", "items"],
)
def test_size_count_and_nesting_are_bounded(data):
    with pytest.raises(MegasamError) as caught:
        decode(data)
    assert caught.value.code == "message_too_large"


def test_too_large_a_message_is_not_sent():
    with pytest.raises(MegasamError) as caught:
        encode(Submit(1, ID, "n", Media(path="a"), None, {"x": b"x" * wire.MAX_MESSAGE_BYTES}))
    assert caught.value.code == "message_too_large"


def test_a_refused_request_can_still_be_answered():
    assert request_number(packed(ListJobs(42), type="dance")) == 42
    for data in [b"noise", msgpack.packb({"request": "1"}), msgpack.packb({"request": -1})]:
        assert request_number(data) == 0


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary()
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


def nesting(value) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(nesting, value), default=0) if isinstance(value, list) else 0


@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_structure_check_passes_what_msgpack_writes_and_no_part_of_it(value):
    data = msgpack.packb(value)
    if nesting(value) <= wire.MAX_NESTING:
        check_structure(data)
        with pytest.raises(MegasamError):
            check_structure(data[:-1])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_never_raises_anything_but_our_error(data):
    try:
        decode(data)
    except MegasamError:
        pass
    else:
        raise AssertionError("noise was taken for a message")
