"""``megasam window``: the dialog of the Maya plug-in without Maya.

The dialog runs in a process of its own, as it does in Maya: the server's code and the dialog's know
each other only by the messages between them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from megasam_shared.errors import MegasamError
from megasam_shared.install_command import install_command
from megasam_shared.server_keys import full_address

from megasam_server.cli.solve import plate_hash_cache
from megasam_server.service.private import PrivateServer
from megasam_server.service.worker import job_function

_MODULE = "megasam_maya.ui.window"


def window(
    plate: Annotated[
        str | None,
        typer.Argument(help="Movie, folder, one frame of a sequence, or a pattern."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Address of a running server; default: the last one."),
    ] = None,
    private: Annotated[
        bool,
        typer.Option("--private", help="Run a server for this window, and end it with it."),
    ] = False,
    light: Annotated[bool, typer.Option("--light", help="Dark on light.")] = False,
) -> None:
    """Open the dialog in a window of its own; Apply writes scene files."""
    if private and server is not None:
        raise typer.BadParameter("--private and --server are two servers; give one of them.")
    check_qt()
    arguments = [] if plate is None else [plate]
    arguments += [f"--hash-cache={plate_hash_cache()}", f"--palette={'light' if light else 'dark'}"]
    with contextlib.ExitStack() as stack:
        if private:
            server = stack.enter_context(PrivateServer(job_function())).address
        if server is not None:
            arguments.append(f"--server={full_address(server)}")
        raise typer.Exit(_run([sys.executable, "-P", "-m", _MODULE, *arguments]))


def check_qt() -> None:
    """Raises:
    MegasamError: ``window_not_installed`` or ``window_libraries_missing``.
    """
    if importlib.util.find_spec("PySide6") is None:
        raise MegasamError(
            "window_not_installed",
            "The window needs PySide6, which is not installed.",
            f"Install it: {install_command('window')}",
        )
    # In a process of its own: a broken Qt can take its process with it.
    probe = [sys.executable, "-P", "-c", "import PySide6.QtWidgets"]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MegasamError(
            "window_libraries_missing",
            f"PySide6 is installed but cannot be loaded: {why}",
            "On Debian or Ubuntu: apt-get install libegl1 libgl1 libxkbcommon0 libdbus-1-3"
            " libfontconfig1",
        )


def _run(command: list[str]) -> int:
    """The exit code; Ctrl-C goes to the window, which closes in good order."""
    process = subprocess.Popen(command, cwd=Path.cwd())
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
