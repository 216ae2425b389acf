"""The command that adds packages to this installation, for messages about a lack of them."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "megasam-maya"


def install_command(*extras: str) -> str:
    """What to type to install ``extras`` of the project where this Python finds them.

    The project may come from a checkout, which no package index knows: then the command names it, as
    recorded by pip in ``direct_url.json`` (PEP 610).
    """
    wanted = ",".join(extras)
    try:
        recorded = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        recorded = None
    source, option = DISTRIBUTION, ""
    if recorded:
        origin = json.loads(recorded)
        place = urlsplit(origin.get("url", ""))
        if place.scheme == "file":
            source = url2pathname(unquote(place.path))
            option = "--editable " if origin.get("dir_info", {}).get("editable") else ""
    return f'"{sys.executable}" -m pip install {option}"{source}[{wanted}]"'
