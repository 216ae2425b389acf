"""The options by which a command says which keys it talks to a server with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from megasam_shared.server_keys import CLIENT_KEY_VARIABLE, SERVER_KEY_VARIABLE

ServerKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        envvar=SERVER_KEY_VARIABLE,
        help="Public key of the server; default: the one of 'megasam keys trust'.",
    ),
]
ClientKeyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar=CLIENT_KEY_VARIABLE,
        help="This client's key pair; default: client.key in the user's config folder.",
    ),
]
