"""``megasam gc``: remove what the server need not keep, now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from megasam_shared.errors import MegasamError

from megasam_server.cli.serve import (
    KEEP_DAYS_HELP,
    STORAGE_LIMIT_HELP,
    default_state,
    storage_limits,
)


def gc(
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="State folder of the server; default: the user's."),
    ] = None,
    keep_days: Annotated[float, typer.Option(metavar="DAYS", min=0, help=KEEP_DAYS_HELP)] = 14,
    storage_limit: Annotated[
        float | None, typer.Option(metavar="GB", min=0, help=STORAGE_LIMIT_HELP)
    ] = None,
) -> None:
    """Remove old jobs, uploads that nobody uses, half-sent files and old stage outputs.

    Never a file of a job that waits or runs. A running server cleans by itself every ten minutes;
    this makes it do so now.
    """
    from megasam_server.service.housekeeping import ask_server_to_collect, describe
    from megasam_server.service.jobs import JobStore
    from megasam_server.service.state_lock import StateLock
    from megasam_server.service.storage import Storage

    folder = (state or default_state()).absolute()
    if not folder.is_dir():
        raise MegasamError(
            "state_missing",
            f"There is no state folder {folder}: no server has used it.",
            "Name the server's with --state DIR.",
        )
    limits = storage_limits(keep_days, storage_limit)
    try:
        lock = StateLock(folder)
    except MegasamError as error:
        if error.code != "state_in_use":
            raise
        print("Removed " + describe(ask_server_to_collect(folder, limits)))
        return
    jobs = JobStore(folder)
    storage = Storage(folder, limits, jobs.clock.now)
    try:
        print("Removed " + describe(storage.collect()))
    finally:
        storage.close()
        jobs.close()
        lock.release()
