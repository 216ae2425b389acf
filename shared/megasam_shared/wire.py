"""Dataclasses to msgpack maps and back, with every size checked before anything is decoded.

A message type is a frozen dataclass marked with :func:`message`. Its annotations are its schema:
``int``, ``float`` (finite), ``str``, ``bytes``, ``bool``, ``dict``, ``list[T]``, ``T | None``,
``Literal[...]``, other dataclasses, and ``Annotated`` with :class:`Bounds` or :class:`Like`.
Unknown keys are ignored, so that a newer peer may say more; everything else that does not fit is a
:class:`MegasamError` with code ``message_malformed``, ``message_too_large`` or
``message_unknown_type``.
"""

from __future__ import annotations

import math
import re
import threading
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack

from megasam_shared.errors import MegasamError

MAX_MESSAGE_BYTES = 8 << 20
MAX_NESTING = 16
MAX_ITEMS = 500_000
# Memory for messages that is kept: enough for a piece of a file.
_KEPT_BYTES = 2 << 20

_TYPES: dict[str, type] = {}
_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest number, or length of text, bytes and lists."""

    low: float
    high: float


@dataclass(frozen=True)
class Like:
    """Regular expression that the whole text must match."""

    pattern: str


def message(cls: _Class) -> _Class:
    """Register a dataclass as a message; on the wire its type is the class name in snake_case."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
    cls.type_name = name
    _TYPES[name] = cls
    return cls


def encode(value: Any) -> bytes:
    """One message as msgpack bytes.

    Raises:
        MegasamError: ``message_too_large`` when the peer would refuse it.
    """
    data = _pack({"type": value.type_name} | _plain(value))
    if len(data) > MAX_MESSAGE_BYTES:
        raise _too_large(f"A {value.type_name} message of {len(data)} bytes", MAX_MESSAGE_BYTES)
    return data


class _Packers(threading.local):
    """A packer for each thread, for its memory: fresh memory for each piece of a file costs as much
    as filling it."""

    def __init__(self) -> None:
        self.packer = msgpack.Packer(use_bin_type=True)


_packers = _Packers()


def _pack(content: Any) -> bytes:
    packer = _packers.packer
    try:
        data = packer.pack(content)
    except BaseException:
        packer.reset()  # of what was packed before it failed
        raise
    if len(data) > _KEPT_BYTES:
        _packers.packer = msgpack.Packer(use_bin_type=True)
    return data


def decode(data: bytes | memoryview) -> Any:
    """The message that ``data`` holds, checked against its schema.

    Raises:
        MegasamError: ``message_too_large``, ``message_malformed`` or ``message_unknown_type``.
    """
    content = unpack(data)
    if not isinstance(content, dict):
        raise _malformed("a message must be a map")
    name = content.get("type")
    cls = _TYPES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise MegasamError(
            "message_unknown_type",
            f"There is no message of type {str(name)[:40]!r}.",
            "Client and server may be of different versions.",
        )
    return _checker(cls)(content, name)


def request_number(data: bytes) -> int:
    """The request that a refused message belongs to, as far as that can be told; else 0."""
    try:
        content = unpack(data)
    except MegasamError:
        return 0
    number = content.get("request") if isinstance(content, dict) else 0
    return number if type(number) is int and 0 <= number <= 2**53 else 0


def unpack(data: bytes) -> Any:
    """Plain msgpack content (keys are text), after its structure was found to be within bounds."""
    check_structure(data)
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_refuse_extension)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise _malformed(f"it is no valid msgpack ({type(error).__name__})") from None


def check_structure(data: bytes) -> None:
    """Walk over msgpack bytes without building anything.

    A few bytes can claim to be thousands of nested lists of millions of entries; the decoder
    would allocate what they claim. Here, every claim must be covered by bytes that are there.

    Raises:
        MegasamError: ``message_too_large`` (size, count or nesting) or ``message_malformed``.
    """
    size = len(data)
    if size > MAX_MESSAGE_BYTES:
        raise _too_large(f"A message of {size} bytes", MAX_MESSAGE_BYTES)
    position, items = 0, 0
    open_counts = [1]
    while open_counts:
        if not open_counts[-1]:
            open_counts.pop()
            continue
        open_counts[-1] -= 1
        items += 1
        if items > MAX_ITEMS:
            raise _too_large(f"A message of {items} items", MAX_ITEMS)
        if position >= size:
            raise _malformed("it ends too early")
        head = data[position]
        position += 1
        if head < 0x80 or head >= 0xE0 or head in (0xC0, 0xC2, 0xC3):
            continue
        if head < 0xA0:
            children = (head & 0x0F) * (2 if head < 0x90 else 1)
        elif head < 0xC0:
            position += head & 0x1F
            continue
        elif head in _LENGTH_BYTES:
            width, per_item = _LENGTH_BYTES[head]
            count = int.from_bytes(data[position : position + width], "big")
            position += width
            if not per_item:
                position += count
                continue
            children = count * per_item
        elif head in _FIXED_BYTES:
            position += _FIXED_BYTES[head]
            continue
        else:
            raise _malformed("it holds an extension or an unassigned type")
        if children > size - position:
            raise _malformed("it claims more items than it has bytes")
        if len(open_counts) > MAX_NESTING:
            raise _too_large("A message nested too deeply", MAX_NESTING)
        open_counts.append(children)
    if position != size:
        raise _malformed("its length is not what it claims")


# msgpack type byte -> (bytes of the length, entries per counted item; 0 = the length counts bytes)
_LENGTH_BYTES = {
    **{0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0)},  # bin
    **{0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)},  # str
    **{0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)},  # array, map
}
# float32/64, uint8-64, int8-64
_FIXED_BYTES = {0xCA: 4, 0xCB: 8} | {0xCC + i: 1 << i for i in range(4)}
_FIXED_BYTES |= {0xD0 + i: 1 << i for i in range(4)}


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError("extension types are not part of the protocol")


def _plain(value: Any) -> Any:
    """Dataclasses as maps; free-form maps travel unchanged."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _malformed(why: str) -> MegasamError:
    return MegasamError("message_malformed", f"A message could not be read: {why}.")


def _too_large(what: str, limit: int) -> MegasamError:
    return MegasamError("message_too_large", f"{what} is over the limit of {limit}.")


_Check = Callable[[Any, str], Any]


@cache
def _checker(kind: Any) -> _Check:
    """A function (value, where) -> value that refuses what does not fit ``kind``."""
    if is_dataclass(kind):
        return _dataclass_checker(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _limited_checker(_checker(arguments[0]), arguments[1])
    if origin in (Union, types.UnionType):
        (inner,) = (_checker(a) for a in arguments if a is not type(None))
        return lambda value, where: None if value is None else inner(value, where)
    if origin is Literal:
        return _choice_checker(arguments)
    if origin is list:
        return _list_checker(_checker(arguments[0]))
    if kind is float:
        return _check_float
    return _type_checker(kind)


def _dataclass_checker(cls: type) -> _Check:
    hints = get_type_hints(cls, include_extras=True)
    checks = [(f.name, _checker(hints[f.name])) for f in fields(cls)]
    optional = {
        f.name for f in fields(cls) if f.default is not MISSING or f.default_factory is not MISSING
    }

    def check(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise _malformed(f"{where} must be a map, not {type(value).__name__}")
        given = {}
        for name, check_field in checks:
            if name in value:
                given[name] = check_field(value[name], f"{where}.{name}")
            elif name not in optional:
                raise _malformed(f"{where}.{name} is missing")
        return cls(**given)

    return check


def _limited_checker(inner: _Check, limit: Bounds | Like) -> _Check:
    if isinstance(limit, Like):
        pattern = re.compile(limit.pattern)

        def check(value: Any, where: str) -> Any:
            value = inner(value, where)
            if not pattern.fullmatch(value):
                raise _malformed(f"{where} is not of the form {limit.pattern}")
            return value

        return check

    def check_bounds(value: Any, where: str) -> Any:
        value = inner(value, where)
        measure = value if isinstance(value, int | float) else len(value)
        if not limit.low <= measure <= limit.high:
            raise _malformed(f"{where}: {measure} is outside {limit.low:.12g} to {limit.high:.12g}")
        return value

    return check_bounds


def _choice_checker(choices: tuple) -> _Check:
    def check(value: Any, where: str) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise _malformed(f"{where} = {str(value)[:40]!r} is none of {', '.join(choices)}")
        return value

    return check


def _list_checker(inner: _Check) -> _Check:
    def check(value: Any, where: str) -> list:
        if not isinstance(value, list):
            raise _malformed(f"{where} must be a list, not {type(value).__name__}")
        return [inner(item, where) for item in value]

    return check


def _check_float(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _malformed(f"{where} must be a finite number")
    return float(value)


def _type_checker(kind: type) -> _Check:
    def check(value: Any, where: str) -> Any:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _malformed(f"{where} must be {kind.__name__}, not {type(value).__name__}")
        return value

    return check
