"""``megasam serve``: the solver server."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from megasam_shared.errors import MegasamError

from megasam_server.service.config_file import (
    ConfigValues,
    default_config_file,
    documented_default,
    read_config,
)
from megasam_server.service.config_options import log_options, server_options
from megasam_server.service.options import EVERY_CLIENT
from megasam_server.service.server_log import start_log
from megasam_server.service.worker import job_function

_log = logging.getLogger(__name__)

KEEP_DAYS_HELP = (
    "How long unused uploads and results stay, counted while a server runs; 0 for ever."
    " [default: 14]"
)
STORAGE_LIMIT_HELP = "Most uploads, results and stage outputs of all clients."
CONFIG_HELP = "Config file; default: server.toml in the user's config folder, if it is there."


class ExecutorName(StrEnum):
    """Where jobs run."""

    LOCAL = "local"
    RAY = "ray"


def _print_default_config(wanted: bool) -> None:
    if wanted:
        print(documented_default(), end="")
        raise typer.Exit


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help=CONFIG_HELP)
    ] = None,
    _print_config: Annotated[
        bool,
        typer.Option(
            "--print-config",
            callback=_print_default_config,
            is_eager=True,
            help="Print a config file with every setting, its default and what it is, and end.",
        ),
    ] = False,
    systemd_unit: Annotated[
        bool,
        typer.Option(
            "--systemd-unit",
            help="Print a systemd unit that starts a server with this config file, and end.",
        ),
    ] = False,
    bind: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen; anything but loopback needs --curve."
            " [default: tcp://127.0.0.1:5599]",
        ),
    ] = None,
    curve: Annotated[
        bool | None,
        typer.Option(
            "--curve",
            help="Encrypt, and admit only clients on the allow-list; see 'megasam keys'.",
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with server.key and allowed_clients; default: the user's config folder.",
        ),
    ] = None,
    shared_jobs: Annotated[
        bool | None,
        typer.Option("--shared-jobs", help="Every client may see and stop the jobs of all."),
    ] = None,
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
        int | None, typer.Option(metavar="JOBS", min=1, help="Most jobs that wait. [default: 100]")
    ] = None,
    queue_limit_per_client: Annotated[
        int | None, typer.Option(metavar="JOBS", min=1, help="Most jobs of one client that wait.")
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="GPUs to solve on, one worker each: 0,1 or 'auto' (all, else the CPU) or 'cpu'.",
        ),
    ] = None,
    executor: Annotated[
        ExecutorName | None,
        typer.Option(help="Where jobs run: on this machine, or on a Ray cluster. [default: local]"),
    ] = None,
    job_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            min=0,
            help="Longest run of a job; 0 for no limit. [default: 1440]",
        ),
    ] = None,
    drain: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            min=0,
            help="How long running jobs may go on after SIGTERM. [default: 30]",
        ),
    ] = None,
    keep_days: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help=KEEP_DAYS_HELP)
    ] = None,
    client_quota: Annotated[
        float | None,
        typer.Option(metavar="GB", min=0, help="Most uploads and results that one client keeps."),
    ] = None,
    storage_limit: Annotated[
        float | None, typer.Option(metavar="GB", min=0, help=STORAGE_LIMIT_HELP)
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Serve numbers for Prometheus there; loopback only."
        ),
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Log there instead of standard error.")
    ] = None,
    log_json: Annotated[
        bool | None, typer.Option("--log-json", help="Log one JSON object per line.")
    ] = None,
) -> None:
    """Run the solver server until Ctrl-C, which stops it at once, or SIGTERM, which lets the
    running jobs reach the end of their stage. Jobs that are not over go on when a server with the
    same state folder starts again."""
    if systemd_unit:
        from megasam_server.cli.systemd_unit import unit

        print(unit(config or default_config_file()), end="")
        return
    given = {
        "server.bind": bind,
        "server.state": _absolute(state),
        "server.gpus": gpus,
        "server.executor": None if executor is None else executor.value,
        "server.job_timeout_minutes": job_timeout,
        "server.drain_minutes": drain,
        "security.curve": curve,
        "security.keys": _absolute(keys),
        "security.shared_jobs": shared_jobs,
        "media.roots": [str(root.absolute()) for root in media_root] if media_root else None,
        "queue.limit": queue_limit,
        "queue.limit_per_client": queue_limit_per_client,
        "storage.keep_days": keep_days,
        "storage.client_quota_gb": client_quota,
        "storage.limit_gb": storage_limit,
        "metrics.bind": metrics,
        "log.file": _absolute(log_file),
        "log.json": log_json,
    }
    read = settings_of(config, given)
    prefixes = dict(map(prefix_pair, map_prefix or []))
    merged = {EVERY_CLIENT: {**read.prefixes.get(EVERY_CLIENT, {}), **prefixes}}
    _run(ConfigValues(read.values, {**read.prefixes, **merged}), config_file(config))


def _run(config: ConfigValues, source: Path | None) -> None:
    from megasam_server.service.server import SolverServer

    options = server_options(config, job_function())
    stop_log = start_log(log_options(config.values))
    try:
        server = SolverServer(options)
        stopping = False

        def stop_in_good_order(*_: object) -> None:
            nonlocal stopping
            if stopping:
                server.stop()
            else:
                stopping = True
                server.drain()

        def stop(*_: object) -> None:
            server.stop()

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop_in_good_order)
        if hasattr(signal, "SIGBREAK"):  # how services of Windows are told to stop
            signal.signal(signal.SIGBREAK, stop_in_good_order)
        print(f"Listening on {server.address}", flush=True)
        _log.info(
            "listening on %s, state in %s, config file %s",
            *(server.address, options.state, source or "none"),
        )
        if server.metrics_address is not None:
            _log.info("numbers for Prometheus on http://%s/metrics", server.metrics_address)
        server.run()
        _log.info("stopped")
    finally:
        stop_log()


def settings_of(config: Path | None, given: Mapping[str, Any]) -> ConfigValues:
    """The settings of a config file with those that the command line gives instead (None: not
    given).

    Raises:
        MegasamError: see :func:`megasam_server.service.config_file.read_config`.
    """
    read = read_config(config_file(config))
    overrides = {key: value for key, value in given.items() if value is not None}
    return ConfigValues({**read.values, **overrides}, read.prefixes)


def config_file(named: Path | None) -> Path | None:
    """The config file that is read: the one that is named, or the default one if it is there."""
    default = default_config_file()
    return named or (default if default.is_file() else None)


def prefix_pair(text: str) -> tuple[str, str]:
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
    return prefix, folder


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
