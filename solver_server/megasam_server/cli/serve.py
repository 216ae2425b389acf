"""``megasam serve``: the solver server."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Annotated

import platformdirs
import typer
from megasam_shared.config_folder import config_folder
from megasam_shared.errors import MegasamError
from megasam_shared.keys import ALLOWED_CLIENTS, SERVER_KEY
from megasam_shared.protocol import DEFAULT_PORT
from megasam_shared.server_keys import full_address

from megasam_server.service.options import (
    EVERY_CLIENT,
    CurveOptions,
    ServerOptions,
    StorageLimits,
)
from megasam_server.service.worker import SOLVER

KEEP_DAYS_HELP = (
    "How long unused uploads and results stay, counted while a server runs; 0 for ever."
)
STORAGE_LIMIT_HELP = "Most uploads, results and stage outputs of all clients."


def default_state() -> Path:
    """Where a server keeps jobs and uploads unless told otherwise."""
    return platformdirs.user_data_path("megasam", appauthor=False) / "server"


def serve(
    bind: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Where to listen; anything but loopback needs --curve."
        ),
    ] = f"tcp://127.0.0.1:{DEFAULT_PORT}",
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="Encrypt, and admit only clients on the allow-list; see 'megasam keys'.",
        ),
    ] = False,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with server.key and allowed_clients; default: the user's config folder.",
        ),
    ] = None,
    shared_jobs: Annotated[
        bool,
        typer.Option("--shared-jobs", help="Every client may see and stop the jobs of all."),
    ] = False,
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
    map_prefix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX=DIR",
            help="What paths of clients mean here, e.g. Z:/shows=/mnt/shows; may be repeated.",
        ),
    ] = None,
    queue_limit: Annotated[
        int, typer.Option(metavar="JOBS", min=1, help="Most jobs that wait.")
    ] = 100,
    queue_limit_per_client: Annotated[
        int | None, typer.Option(metavar="JOBS", min=1, help="Most jobs of one client that wait.")
    ] = None,
    gpus: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="GPUs to solve on, one worker each: 0,1 or 'auto' (all, else the CPU) or 'cpu'.",
        ),
    ] = "auto",
    job_timeout: Annotated[
        float, typer.Option(metavar="MINUTES", min=0, help="Longest run of a job; 0 for no limit.")
    ] = 24 * 60,
    keep_days: Annotated[float, typer.Option(metavar="DAYS", min=0, help=KEEP_DAYS_HELP)] = 14,
    client_quota: Annotated[
        float | None,
        typer.Option(metavar="GB", min=0, help="Most uploads and results that one client keeps."),
    ] = None,
    storage_limit: Annotated[
        float | None, typer.Option(metavar="GB", min=0, help=STORAGE_LIMIT_HELP)
    ] = None,
) -> None:
    """Run the solver server until Ctrl-C."""
    from megasam_server.service.server import SolverServer

    logging.getLogger("megasam_server").setLevel(logging.INFO)
    folder = keys or config_folder()
    server = SolverServer(
        ServerOptions(
            state=state or default_state(),
            bind=full_address(bind),
            curve=CurveOptions(folder / SERVER_KEY, folder / ALLOWED_CLIENTS) if curve else None,
            shared_jobs=shared_jobs,
            media_roots=media_root or [],
            prefix_maps={EVERY_CLIENT: dict(map(prefix_pair, map_prefix or []))},
            queue_limit=queue_limit,
            queue_limit_per_client=queue_limit_per_client,
            gpus=None if gpus == "auto" else [name.strip() for name in gpus.split(",")],
            job_timeout=job_timeout * 60 or None,
            storage=storage_limits(keep_days, storage_limit, client_quota),
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


def storage_limits(
    keep_days: float, storage_limit: float | None, client_quota: float | None = None
) -> StorageLimits:
    """Limits as the command line gives them: days, and GB of a thousand million bytes."""
    return StorageLimits(
        ttl=keep_days * 24 * 3600 or None,
        client_bytes=None if client_quota is None else round(client_quota * 1e9),
        all_bytes=None if storage_limit is None else round(storage_limit * 1e9),
    )


def prefix_pair(text: str) -> tuple[str, Path]:
    """``Z:/shows=/mnt/shows`` as prefix and folder.

    Raises:
        MegasamError: ``prefix_malformed``.
    """
    prefix, equals, folder = text.partition("=")
    if not equals or not prefix or not folder:
        raise MegasamError(
            "prefix_malformed",
            f"{text!r} does not say what a prefix means here.",
            "Write PREFIX=FOLDER, e.g. Z:/shows=/mnt/shows.",
        )
    return prefix, Path(folder)
