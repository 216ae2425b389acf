"""Another truth for tests: what the table of checkpoints says is published.

As a program, ``python -m tests.server.checkpoints.published FACTS ARGUMENT...`` is ``megasam``
with those facts (JSON: file name -> fields of WeightFile) and without the packages that
``WITHOUT_PACKAGES`` names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megasam_server.checkpoints.registry import weight_files


def facts_of(path: Path) -> dict[str, Any]:
    """What the table says when ``path`` is the published file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": sha256, "git_blob": None}


NOTHING_KNOWN = {"size": None, "sha256": None, "git_blob": None}


@contextlib.contextmanager
def published(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """The table with other facts; the entries are frozen, so they are changed from below."""
    files = {file.name: file for _, file in weight_files()}
    before = {name: {key: getattr(files[name], key) for key in new} for name, new in facts.items()}
    try:
        for name, new in facts.items():
            _set(files[name], new)
        yield
    finally:
        for name, old in before.items():
            _set(files[name], old)


def _set(file: object, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        object.__setattr__(file, key, value)


if __name__ == "__main__":
    for package in os.environ.get("WITHOUT_PACKAGES", "").split():
        sys.modules[package] = None
    from megasam_server.cli import main

    with published(json.loads(sys.argv.pop(1))):
        main()
