"""``megasam gc``: remove what the server need not keep, now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from megasam_shared.errors import MegasamError

from megasam_server.cli.serve import (
    CONFIG_HELP,
    KEEP_DAYS_HELP,
    STORAGE_LIMIT_HELP,
    settings_of,
)
from megasam_server.service.config_options import state_folder, storage_limits


def gc(
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="State folder of the server; default: the user's."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)
    ] = None,
    keep_days: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help=KEEP_DAYS_HELP)
    ] = None,
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

    given = {
        "server.state": None if state is None else str(state),
        "storage.keep_days": keep_days,
        "storage.limit_gb": storage_limit,
    }
    values = settings_of(config, given).values
    folder = state_folder(values).absolute()
    if not folder.is_dir():
        raise MegasamError(
            "state_missing",
            f"There is no state folder {folder}: no server has used it.",
            "Name the server's with --state DIR.",
        )
    limits = storage_limits(values)
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
