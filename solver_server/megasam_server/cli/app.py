"""The subcommands put together, and what becomes of errors."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from megasam_shared import __version__
from megasam_shared.errors import MegasamError
from megasam_shared.protocol import DEFAULT_PORT

from megasam_server.cli import checkpoints
from megasam_server.cli.farm import app as farm_app
from megasam_server.cli.gc import gc
from megasam_server.cli.keys import app as keys_app
from megasam_server.cli.serve import serve
from megasam_server.cli.solve import solve
from megasam_server.cli.status import status
from megasam_server.cli.window import window
from megasam_server.service.config_options import default_state

EXIT_ERROR = 2

app = typer.Typer(
    name="megasam",
    help="Solve the camera of a plate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"megasam {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show where an error came from."),
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


app.command()(solve)
app.command()(serve)
app.command()(status)
app.command()(window)
app.command()(gc)
app.add_typer(farm_app, name="farm")
app.add_typer(keys_app, name="keys")
app.add_typer(checkpoints.app, name="checkpoints")


@app.command()
def doctor(
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="State folder of the server.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the server.")] = DEFAULT_PORT,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Say what is installed, which engine would run, and what to do about each lack."""
    from megasam_server.cli import doctor as module

    raise typer.Exit(module.doctor(state or default_state(), port, as_json))


@app.command()
def demo(
    plate: Annotated[
        Path | None,
        typer.Argument(help="A plate of your own; then there is no ground truth to compare with."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for plate, truth and results.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per event on standard output.")
    ] = False,
) -> None:
    """Render a short clip with known cameras, solve it, and print the errors of the solve."""
    from megasam_server.cli import demo as module

    raise typer.Exit(module.demo(plate, out, as_json))


def main() -> None:
    """Run the command; an error is one line and a hint on stderr, and exit code 2."""
    try:
        app()
    except MegasamError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"megasam: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
