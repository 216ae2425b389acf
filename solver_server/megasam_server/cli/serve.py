"""``megasam serve``: the solver server."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Annotated

import platformdirs
import typer
from megasam_shared.protocol import DEFAULT_PORT

from megasam_server.service.worker import SOLVER


def default_state() -> Path:
    """Where a server keeps jobs and uploads unless told otherwise."""
    return platformdirs.user_data_path("megasam", appauthor=False) / "server"


def serve(
    bind: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; loopback only.")
    ] = f"tcp://127.0.0.1:{DEFAULT_PORT}",
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for jobs and uploads; default: the user's data folder."
        ),
    ] = None,
    media_root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="Folder whose plates clients may name by path; may be repeated."
        ),
    ] = None,
    queue_limit: Annotated[
        int, typer.Option(metavar="JOBS", min=1, help="Most jobs that wait.")
    ] = 100,
) -> None:
    """Run the solver server until Ctrl-C."""
    from megasam_server.service.server import ServerConfig, SolverServer

    logging.getLogger("megasam_server").setLevel(logging.INFO)
    server = SolverServer(
        ServerConfig(
            state=state or default_state(),
            bind=bind,
            media_roots=media_root or [],
            queue_limit=queue_limit,
            # The variable is for the project's own tests, which bring a job function along.
            job_function=os.environ.get("MEGASAM_JOB_FUNCTION", SOLVER),
        )
    )

    def stop(*_: object) -> None:
        server.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    print(f"Listening on {server.address}", flush=True)
    server.run()
