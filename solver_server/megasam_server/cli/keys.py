"""``megasam keys``: who may use a server, and which servers this machine trusts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from megasam_shared.config_folder import config_folder
from megasam_shared.errors import MegasamError
from megasam_shared.keys import (
    ALLOWED_CLIENTS,
    CLIENT_KEY,
    SERVER_KEY,
    KeyList,
    check_client_name,
    check_key,
    new_key_pair,
    read_key_pair,
    write_key_pair,
)
from megasam_shared.server_keys import full_address, known_servers

app = typer.Typer(
    help="Keys for servers that other machines reach. A server admits the clients that it allows;"
    " a client talks to the servers that it trusts.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path | None,
    typer.Option("--keys", metavar="DIR", help="Folder of the keys; default: the config folder."),
]


@app.command()
def new(
    server: Annotated[
        bool, typer.Option("--server", help="For a server; otherwise for this user as a client.")
    ] = False,
    keys: Folder = None,
) -> None:
    """Make a key pair, readable by this user only, and print its public half."""
    path = (keys or config_folder()) / (SERVER_KEY if server else CLIENT_KEY)
    pair = new_key_pair()
    write_key_pair(path, pair)
    print(pair.public)
    print(f"The secret half is in {path}.", flush=True)
    if server:
        print(f"On the clients: megasam keys trust ADDRESS {pair.public}")
    else:
        print(f"On the server:  megasam keys allow NAME {pair.public}")


@app.command()
def allow(
    name: Annotated[str, typer.Argument(help="What to call the client: a user or a machine.")],
    key: Annotated[str, typer.Argument(help="Its public key, as 'megasam keys new' printed it.")],
    keys: Folder = None,
) -> None:
    """Let a client use this machine's server; a running server notices."""
    allowed = _allowed(keys)
    key = check_key(key)
    for known, its_key in allowed.read().items():
        if its_key == key and known != name:
            raise MegasamError(
                "key_allowed_already",
                f"That key is allowed already, for {known}.",
                f"Run 'megasam keys revoke {known}' first to give it another name.",
            )
        if known == name and its_key != key:
            raise MegasamError(
                "client_name_taken",
                f"{name} has another key.",
                f"Run 'megasam keys revoke {name}' first if that one is no longer used.",
            )
    allowed.add(check_client_name(name), key)
    print(f"{name} is allowed.")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The client.")],
    keys: Folder = None,
) -> None:
    """Lock a client out; a running server ends its connections and keeps its jobs."""
    if not _allowed(keys).remove(name):
        raise MegasamError(
            "client_unknown",
            f"No client is called {name[:80]!r}.",
            "Run 'megasam keys list' to see who is allowed.",
        )
    print(f"{name} is no longer allowed.")


@app.command()
def trust(
    address: Annotated[str, typer.Argument(help="Address of the server, e.g. tcp://gpu01:5599.")],
    key: Annotated[str, typer.Argument(help="Its public key.")],
) -> None:
    """Remember a server's public key, so that this user's clients can talk to it."""
    full = full_address(address)
    known_servers().add(full, check_key(key))
    print(f"{full} is trusted.")


@app.command("list")
def list_keys(keys: Folder = None) -> None:
    """Show the public keys: this user's, this machine's server's, and those of others."""
    folder = keys or config_folder()
    rows = []
    for kind, name in (("this client", CLIENT_KEY), ("this server", SERVER_KEY)):
        path = folder / name
        if path.exists():
            rows.append((kind, read_key_pair(path).public, str(path)))
    rows += [("allowed client", key, name) for name, key in sorted(_allowed(keys).read().items())]
    rows += [("trusted server", key, name) for name, key in sorted(known_servers().read().items())]
    # One line each, whatever the width of the terminal: keys are there to be copied.
    for kind, key, name in rows:
        print(f"{kind:<16}{key}  {name}")
    if not rows:
        print(f"There are no keys in {folder}.")


def _allowed(keys: Path | None) -> KeyList:
    return KeyList((keys or config_folder()) / ALLOWED_CLIENTS)
