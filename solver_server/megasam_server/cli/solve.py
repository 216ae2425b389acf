"""``megasam solve``: a plate in, a folder with results out."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import platformdirs
import typer
from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.plate_files import find_plate_files
from megasam_shared.protocol import DEFAULT_PRIORITY, MAX_PRIORITY
from megasam_shared.remote_solve import FinishedSolve, check_output, solve_remotely
from megasam_shared.server_keys import (
    ClientKeys,
    full_address,
    keys_for,
)
from megasam_shared.settings import SolveSettings
from rich.console import Console
from rich.markup import escape

from megasam_server.cli.key_options import ClientKeyOption, ServerKeyOption
from megasam_server.cli.settings_options import with_settings_options
from megasam_server.cli.watchers import (
    BarsWatcher,
    JsonWatcher,
    OpenJdWatcher,
    print_json_error,
    print_json_result,
    print_openjd_error,
)
from megasam_server.service.private import PrivateServer
from megasam_server.service.worker import job_function

EXIT_NOT_USABLE = 1
EXIT_INTERRUPTED = 130

# Seconds that a solve waits for a server that was restarted, or for the network.
_PATIENCE = 300.0

_VERDICT_STYLE = {"good": "bold green", "check": "bold yellow", "failed": "bold red"}


@with_settings_options
def solve(
    plate: Annotated[
        Path,
        typer.Argument(
            help="Movie, folder, one frame of a sequence, or a pattern such as plate.%04d.exr."
        ),
    ],
    server: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of a running server, e.g. tcp://127.0.0.1:5599. Without it, a private"
            " server runs for this solve.",
        ),
    ] = None,
    server_key: ServerKeyOption = None,
    client_key: ClientKeyOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the results; default: PLATE_solve here."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Movie or sequence; white pixels are left out."),
    ] = None,
    by_path: Annotated[
        bool,
        typer.Option(
            "--by-path",
            help="Do not upload: the server reads the plate below one of its media roots.",
        ),
    ] = False,
    priority: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_PRIORITY,
            help="In the server's queue; more is earlier, and the server says how much it takes.",
        ),
    ] = DEFAULT_PRIORITY,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per event on standard output.")
    ] = False,
    openjd: Annotated[
        bool,
        typer.Option("--openjd", help="Progress as a render farm reads it: Open Job Description."),
    ] = False,
    *,
    settings: SolveSettings,
) -> None:
    """Solve the camera of a plate.

    Exit code: 0 for a usable solve, 1 for one that must not be used, 2 for an error, 130 when
    stopped.
    """
    # A script that ends us means what a person means with Ctrl-C: cancel the job, clean up.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        where = None if server is None else full_address(server)
        keys = None if where is None else keys_for(where, server_key, client_key)
        finished = solve_plate(
            plate, where, out, masks, by_path, as_json, settings, keys, openjd, priority
        )
    except MegasamError as error:
        if as_json:
            print_json_error(error)
        elif openjd:
            print_openjd_error(error)
        raise
    except KeyboardInterrupt:
        print("megasam: stopped, the job is cancelled", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if not finished.usable:
        raise typer.Exit(EXIT_NOT_USABLE)


def solve_plate(
    plate: Path,
    server: str | None,
    out: Path | None,
    masks: Path | None,
    by_path: bool,
    as_json: bool,
    settings: SolveSettings,
    keys: ClientKeys | None = None,
    openjd: bool = False,
    priority: int = DEFAULT_PRIORITY,
) -> FinishedSolve:
    """Solve and show it; the ``megasam solve`` command without its exit codes.

    Raises:
        MegasamError: whatever went wrong.
    """
    console = Console(stderr=as_json)
    # A plate that is not there is said before anything is started.
    name = plate.stem if by_path else find_plate_files(plate, masks, settings).name
    out = out or Path(f"{name}_solve")
    check_output(out)
    with _client(server, keys) as client, _watcher(as_json, openjd, console) as watcher:
        finished = solve_remotely(
            client,
            plate,
            out,
            settings,
            masks=masks,
            by_path=by_path,
            priority=priority,
            watcher=watcher,
        )
    if as_json:
        print_json_result(finished)
    else:
        _print_summary(console, finished)
    return finished


def _watcher(
    as_json: bool, openjd: bool, console: Console
) -> JsonWatcher | OpenJdWatcher | BarsWatcher:
    if as_json:
        return JsonWatcher()
    return OpenJdWatcher() if openjd else BarsWatcher(console)


@contextlib.contextmanager
def _client(address: str | None, keys: ClientKeys | None) -> Iterator[SolverClient]:
    """A connected client of the server at ``address``, or of a private one."""
    patience = _PATIENCE
    with contextlib.ExitStack() as stack:
        if address is None:
            patience = 0.0  # a private server that died does not come back
            address = stack.enter_context(PrivateServer(job_function())).address
        client = SolverClient(
            address,
            name="megasam solve",
            keys=keys,
            patience=patience,
            hash_cache=plate_hash_cache(),
        )
        stack.enter_context(client)
        client.connect()
        yield client


def plate_hash_cache() -> Path:
    """File that remembers the hashes of this user's plates."""
    return platformdirs.user_cache_path("megasam", appauthor=False) / "plate_hashes.json"


def _print_summary(console: Console, finished: FinishedSolve) -> None:
    result, verdict = finished.result, finished.verdict
    console.print(escape(str(result.get("status", ""))))
    console.print(f"Verdict: [{_VERDICT_STYLE.get(verdict, 'bold red')}]{verdict}[/]")
    for reason in finished.reasons:
        console.print(f"  - {escape(reason)}")
    warnings = result.get("warnings")
    for warning in warnings if isinstance(warnings, list) else []:
        if isinstance(warning, dict):
            text = f"{warning.get('message', '')} {warning.get('hint', '')}".strip()
            console.print(f"[yellow]Warning:[/] {escape(text)}")
    console.print(f"Results: {escape(str(finished.folder.absolute()))}", soft_wrap=True)
