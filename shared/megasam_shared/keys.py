"""CURVE keys in files: a machine's own pair, and lists of the keys of others.

A key is 32 bytes, written as 64 hexadecimal digits, so that it survives shells, mails and file
names. Servers and clients both have a pair; a server lists the clients it admits
(``allowed_clients``: ``NAME KEY`` per line), a client lists the servers it trusts
(``known_servers``: ``ADDRESS KEY`` per line).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from megasam_shared.errors import MegasamError

CLIENT_KEY = "client.key"
SERVER_KEY = "server.key"
ALLOWED_CLIENTS = "allowed_clients"
KNOWN_SERVERS = "known_servers"

_KEY = re.compile(r"[0-9a-f]{64}")
# Part of log lines, of the names of metrics and of the config file.
_CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True)
class KeyPair:
    """Public and secret key, hexadecimal. The secret is never shown."""

    public: str
    secret: str = field(repr=False)


def new_key_pair() -> KeyPair:
    """A new pair.

    Raises:
        MegasamError: ``curve_missing`` where libzmq was built without encryption.
    """
    if not zmq.has("curve"):
        raise MegasamError(
            "curve_missing",
            "The ZeroMQ library here was built without CURVE encryption.",
            "Install the pyzmq wheel of PyPI.",
        )
    return KeyPair(*(z85.decode(key).hex() for key in zmq.curve_keypair()))


def check_key(text: str) -> str:
    """``text`` as a key, in lower case.

    Raises:
        MegasamError: ``key_malformed``.
    """
    key = text.strip().lower()
    if not _KEY.fullmatch(key):
        raise MegasamError(
            "key_malformed",
            f"{text.strip()[:80]!r} is not a key: a key is 64 hexadecimal digits.",
            "Copy the line that 'megasam keys new' printed.",
        )
    return key


def check_client_name(name: str) -> str:
    """Raises:
    MegasamError: ``client_name_malformed``.
    """
    if not _CLIENT_NAME.fullmatch(name):
        raise MegasamError(
            "client_name_malformed",
            f"{name[:80]!r} is not a name for a client.",
            "Use up to 64 letters, digits and . _ @ -, e.g. anna@ws12.",
        )
    return name


def write_key_pair(path: Path, pair: KeyPair) -> None:
    """Write a new key file that only its owner can read.

    Raises:
        MegasamError: ``key_exists`` (a key is never overwritten) or ``key_not_writable``.
    """
    text = json.dumps({"public_key": pair.public, "secret_key": pair.secret}, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise MegasamError(
            "key_exists",
            f"There is a key in {path} already.",
            "Remove the file first if that key is to be given up; those who trusted it must be"
            " told the new one.",
        ) from None
    except OSError as error:
        raise _not_writable(path, error) from None
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(text)


def read_key_pair(path: Path) -> KeyPair:
    """The pair in a key file.

    Raises:
        MegasamError: ``key_not_found``, ``key_unreadable``, or ``key_not_private`` when others
            can read it.
    """
    text = _read_text(path, private=True)
    try:
        content = json.loads(text)
        return KeyPair(check_key(content["public_key"]), check_key(content["secret_key"]))
    except (ValueError, KeyError, TypeError, AttributeError, MegasamError):
        raise MegasamError(
            "key_unreadable",
            f"{path} is not a key file.",
            "Remove it and run 'megasam keys new'.",
        ) from None


class KeyList:
    """A text file with a name and a public key per line; ``#`` begins a comment.

    A file that is not there is an empty list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """Name -> key.

        Raises:
            MegasamError: ``key_list_unreadable`` naming the line, ``key_not_private`` when others
                could write into the file.
        """
        try:
            text = _read_text(self.path, private=False)
        except MegasamError as error:
            if error.code == "key_not_found":
                return {}
            raise
        found: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split("#", 1)[0].split()
            if not words:
                continue
            if len(words) != 2 or not _KEY.fullmatch(words[1].lower()) or words[0] in found:
                raise MegasamError(
                    "key_list_unreadable",
                    f"Line {number} of {self.path} is not NAME KEY, or has a name for the second"
                    " time.",
                    "Correct the line, or remove it.",
                )
            found[words[0]] = words[1].lower()
        return found

    def add(self, name: str, key: str) -> None:
        """Add or replace an entry; comments and other lines stay.

        Raises:
            MegasamError: of :meth:`read`, ``key_malformed`` or ``key_not_writable``.
        """
        key = check_key(key)
        self._write([*self._lines_without(name), f"{name} {key}"])

    def remove(self, name: str) -> bool:
        """Remove an entry; False when there was none."""
        known = name in self.read()
        if known:
            self._write(self._lines_without(name))
        return known

    def _lines_without(self, name: str) -> list[str]:
        self.read()  # a file that is not understood is not rewritten
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        return [line for line in lines if line.split("#", 1)[0].split()[:1] != [name]]

    def _write(self, lines: list[str]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with os.fdopen(file, "w", encoding="utf-8") as opened:
                opened.writelines(line + "\n" for line in lines)
            temporary.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _not_writable(self.path, error) from None


def _read_text(path: Path, private: bool) -> str:
    """A small file that is as protected as it has to be: nobody else writes it, and nobody else
    reads it when it is ``private``. (Windows keeps a profile's files from others by itself.)"""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_LARGEST_FILE)
    except FileNotFoundError:
        raise MegasamError(
            "key_not_found", f"There is no key file {path}.", "Make one with 'megasam keys new'."
        ) from None
    except OSError as error:
        raise MegasamError(
            "key_unreadable", f"{path} cannot be read: {error.strerror}.", "Check its permissions."
        ) from None
    forbidden = 0o077 if private else 0o022
    if os.name == "posix" and mode & forbidden:
        raise MegasamError(
            "key_not_private",
            f"Other users of this machine can {'read' if private else 'change'} {path}"
            f" (mode {mode:04o}).",
            f"Run 'chmod {'600' if private else '644'} {path}'.",
        )
    return data.decode("utf-8", "replace")


def _not_writable(path: Path, error: OSError) -> MegasamError:
    return MegasamError(
        "key_not_writable",
        f"{path} cannot be written: {error.strerror or error}.",
        "Check the permissions of its folder.",
    )
