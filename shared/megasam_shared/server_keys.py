"""Which keys a client uses for the server at an address: found in files, variables or options."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from megasam_shared.config_folder import config_folder
from megasam_shared.errors import MegasamError
from megasam_shared.keys import (
    CLIENT_KEY,
    KNOWN_SERVERS,
    KeyList,
    KeyPair,
    check_key,
    read_key_pair,
)
from megasam_shared.protocol import DEFAULT_PORT

SERVER_KEY_VARIABLE = "MEGASAM_SERVER_KEY"
CLIENT_KEY_VARIABLE = "MEGASAM_CLIENT_KEY"


@dataclass(frozen=True)
class ClientKeys:
    """The client's own pair, and the public key that the server must have."""

    own: KeyPair
    server: str


def full_address(text: str) -> str:
    """``gpu01``, ``gpu01:5599`` and ``tcp://gpu01`` as ``tcp://gpu01:5599``; ``[...]`` for IPv6.

    Raises:
        MegasamError: ``server_address_invalid``.
    """
    address = text.strip()
    if "://" not in address:
        address = f"tcp://{address}"
    host = address.removeprefix("tcp://")
    if not address.startswith("tcp://") or not host or any(c.isspace() or c == "/" for c in host):
        raise MegasamError(
            "server_address_invalid",
            f"{text!r} is not the address of a server.",
            "An address looks like tcp://gpu01:5599.",
        )
    if ":" not in host.rpartition("]")[2]:
        host = f"{host}:{DEFAULT_PORT}"
    if host.startswith("localhost:"):
        host = f"127.0.0.1:{host.removeprefix('localhost:')}"
    return f"tcp://{host}"


def is_loopback(address: str) -> bool:
    """Whether ``tcp://HOST:PORT`` can only be reached from this machine."""
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def keys_for(
    address: str, server_key: str | None = None, client_key: Path | None = None
) -> ClientKeys | None:
    """The keys for the server at ``address``; None for one on this machine that has none.

    The server's key is ``server_key``, else the variable ``MEGASAM_SERVER_KEY``, else the line of
    the address in ``known_servers`` of :func:`config_folder`. The client's pair is in the file
    ``client_key``, else the one that ``MEGASAM_CLIENT_KEY`` names, else ``client.key`` there.

    Raises:
        MegasamError: ``server_key_unknown`` for a server elsewhere whose key is not known, or
            what is wrong with one of the files.
    """
    address = full_address(address)
    expected = server_key or os.environ.get(SERVER_KEY_VARIABLE) or _known_key(address)
    if not expected:
        if is_loopback(address):
            return None
        raise MegasamError(
            "server_key_unknown",
            f"The public key of the server at {address} is not known here, so nothing tells it"
            " from an impostor.",
            f"Ask who runs it for the key and run 'megasam keys trust {address} KEY'.",
        )
    path = client_key or Path(os.environ.get(CLIENT_KEY_VARIABLE) or config_folder() / CLIENT_KEY)
    return ClientKeys(read_key_pair(path), check_key(expected))


def known_servers() -> KeyList:
    """The servers that this user trusts."""
    return KeyList(config_folder() / KNOWN_SERVERS)


def _known_key(address: str) -> str | None:
    return known_servers().read().get(address)
