"""``megasam doctor``: what this machine has, which engine would run, what to do about each lack."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from megasam_shared.install_command import install_command
from megasam_shared.settings import PRESETS, SolveSettings
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megasam_server.checkpoints.facts import checkpoint_facts, glance_at_all
from megasam_server.checkpoints.locate import CHECKPOINTS_VARIABLE, checkpoint_folder
from megasam_server.checkpoints.verify import CheckpointStatus
from megasam_server.cli.checkpoints import checkpoint_table, sign_and_state
from megasam_server.geometry.lietorch_check import find_lietorch
from megasam_server.pipeline.engines import (
    MEGASAM_DEPENDENCIES,
    choose_engine,
    fault_of,
    is_installed,
)

REINSTALL = f"Install the server's packages again: {install_command('server')}"
# Names of imports where they differ from the name of the distribution.
IMPORT_NAMES = {
    "pyzmq": "zmq",
    "opencv-python-headless": "cv2",
    "openimageio": "OpenImageIO",
    "usd-core": "pxr.Usd",
    "alembic3d": "alembic3d.AbcGeom",
    "prometheus-client": "prometheus_client",
}
# What plates come as; all of them in the wheels we install, not in every build of the libraries.
MOVIE_CODECS = ("h264", "hevc", "prores", "dnxhd", "mjpeg")
IMAGE_FORMATS = ("openexr", "dpx", "tiff", "png", "jpeg")
# Decoded frames, flow and depth of a 500-frame plate at the balanced preset.
DISK_GB = 10
MEMORY_GB = 4


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        state: ``ok``; ``lack``: no solve can run without it; ``note``: worth knowing.
        found: what is there.
        advice: what to do; empty when there is nothing to do.
    """

    name: str
    state: Literal["ok", "lack", "note"]
    found: str
    advice: str = ""


def doctor(state_dir: Path, port: int, as_json: bool = False) -> int:
    """Print the report; 0 when a solve can run on this machine, else 1.

    Args:
        state_dir: where the server keeps its jobs. port: where ``megasam serve`` listens.
    """
    checks = examine(state_dir, port)
    can_solve = all(check.state != "lack" for check in checks)
    checkpoints = glance_at_all()
    if as_json:
        report = {
            "can_solve": can_solve,
            "checks": [asdict(check) for check in checks],
            "checkpoints": [asdict(fact) for fact in checkpoint_facts(checkpoints)],
        }
        print(json.dumps(report, indent=1))
    else:
        _print_table(checks, checkpoints, can_solve)
    return 0 if can_solve else 1


def examine(state_dir: Path, port: int) -> list[Check]:
    """All checks, in the order in which a person would want to read them."""
    return [
        _python(),
        *_packages(),
        _movie_codecs(),
        _image_formats(),
        _engine(),
        *_network_packages(),
        _lietorch(),
        _checkpoints(),
        _gpu(),
        _processor(),
        _disk(state_dir),
        _port(port),
    ]


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")


def _packages() -> Iterator[Check]:
    """The packages that every solve needs: there, and importable on this machine."""
    for requirement in metadata.requires("megasam-maya") or []:
        extra = re.search(r"extra == .(\w+)", requirement)
        if extra is None or extra[1] == "server":
            yield _package(re.match(r"[\w.-]+", requirement)[0])


def _package(name: str) -> Check:
    try:
        version = metadata.version(name)
        importlib.import_module(IMPORT_NAMES.get(name.lower(), name))
    except metadata.PackageNotFoundError:
        return Check(name, "lack", "not installed", REINSTALL)
    except Exception as error:  # a compiled package can fail in any manner; the report goes on
        return Check(name, "lack", f"cannot be imported: {error}", REINSTALL)
    return Check(name, "ok", version)


def _movie_codecs() -> Check:
    def available() -> set[str]:
        import av

        return set(av.codecs_available)

    return _formats("Movie codecs", MOVIE_CODECS, available, "PyAV's wheel: pip install av")


def _image_formats() -> Check:
    def available() -> set[str]:
        import OpenImageIO

        return set(OpenImageIO.get_string_attribute("format_list").split(","))

    advice = "OpenImageIO's wheel: pip install OpenImageIO"
    return _formats("Picture formats", IMAGE_FORMATS, available, advice)


def _formats(
    name: str, wanted: tuple[str, ...], available: Callable[[], set[str]], advice: str
) -> Check:
    try:
        missing = sorted(set(wanted) - available())
    except ImportError:
        missing = list(wanted)
    if missing:
        found = f"cannot read {', '.join(missing)}"
        return Check(name, "note", found, f"To read them, use {advice}")
    return Check(name, "ok", ", ".join(wanted))


def _engine() -> Check:
    choice = choose_engine(SolveSettings(engine="auto"))
    reasons = " ".join(notice.message for notice in choice.notices)
    return Check(
        "Engine (auto)",
        "note" if choice.notices else "ok",
        f"{choice.engine}. {reasons}".strip(),
        "Nothing to do: the classical engine needs no GPU." if choice.notices else "",
    )


def _network_packages() -> Iterator[Check]:
    for name in MEGASAM_DEPENDENCIES:
        if not is_installed(name):
            yield Check(name, "note", "not installed; only the engine megasam needs it")
        elif fault := fault_of(name):
            advice = f"For the engine megasam, install it again: {install_command('networks')}"
            yield Check(name, "note", fault, advice)
        else:
            yield Check(name, "ok", metadata.version(name))


def _lietorch() -> Check:
    found = find_lietorch()
    state = "note" if found.kind in ("unrelated", "broken") else "ok"
    return Check("lietorch", state, found.message, found.hint)


def _checkpoints() -> Check:
    """What is there, in one line; the table below the report has the rest."""
    folder = checkpoint_folder()
    there = [status for status in glance_at_all() if status.state != "missing"]
    own = [_named(status) for status in there if status.checkpoint.built_in]
    official = [_named(status) for status in there if not status.checkpoint.built_in]
    found = f"{', '.join(official) or 'none'} in {folder}"
    if own:
        found += f"; {', '.join(own)}"
    damaged = [status.checkpoint.name for status in there if status.state == "damaged"]
    if damaged:
        return Check("Checkpoints", "note", found, f"Get again: {', '.join(damaged)}")
    if not official:
        advice = f"None are needed for the classical engine. Another folder: {CHECKPOINTS_VARIABLE}"
        return Check("Checkpoints", "note", found, advice)
    return Check("Checkpoints", "ok", found)


def _named(status: CheckpointStatus) -> str:
    return f"{status.path.name} ({sign_and_state(status)[1]})"


def _gpu() -> Check:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("GPU", "note", "no NVIDIA GPU found; the classical engine needs none")
    query = ["--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run([program, *query], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("GPU", "note", f"nvidia-smi does not answer: {error}")
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        advice = "Check the NVIDIA driver; the classical engine runs without it"
        return Check("GPU", "note", f"nvidia-smi failed: {said[-1] if said else ''}", advice)
    cards = [line.split(", ") for line in done.stdout.strip().splitlines()]
    found = "; ".join(
        f"{name}, {free} of {total} free, driver {driver}" for name, total, free, driver in cards
    )
    free_gb = max(float(card[2].split()[0]) / 1024 for card in cards)
    fits = [preset.title for preset in PRESETS.values() if preset.vram_gb <= free_gb]
    return Check("GPU", "ok", f"{found}; room for presets: {', '.join(fits) or 'none'}")


def _processor() -> Check:
    memory = psutil.virtual_memory()
    total, free = memory.total / 2**30, memory.available / 2**30
    found = f"{os.cpu_count()} cores, {free:.1f} of {total:.1f} GB memory free"
    if free < MEMORY_GB:
        return Check("Machine", "note", found, f"Have {MEMORY_GB} GB free for plates of 2K and up")
    return Check("Machine", "ok", found)


def _disk(state_dir: Path) -> Check:
    """Room for jobs, and whether they can be written; the folder itself is not made."""
    existing = next(p for p in (state_dir, *state_dir.absolute().parents) if p.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free / 2**30
    except OSError as error:
        found = f"{state_dir} cannot be written: {error.strerror}"
        return Check("Jobs folder", "lack", found, "Free the disk, or choose another state folder")
    found = f"{state_dir}, {free:.1f} GB free"
    if free < DISK_GB:
        advice = f"Have {DISK_GB} GB free for long plates, or choose another state folder"
        return Check("Jobs folder", "note", found, advice)
    return Check("Jobs folder", "ok", found)


def _port(port: int) -> Check:
    with socket.socket() as listener:
        # What a server does on this system: a connection that just ended must not look busy.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            advice = "A running `megasam serve` is fine; a second one needs --bind"
            return Check("Port", "note", f"{port} is in use", advice)
    return Check("Port", "ok", f"{port} is free for `megasam serve`")


def _print_table(checks: list[Check], checkpoints: list[CheckpointStatus], can_solve: bool) -> None:
    signs = {"ok": "[green]✓[/]", "lack": "[red]✗[/]", "note": "[yellow]•[/]"}
    table = Table(box=None, padding=(0, 1))
    for title in ("", "What", "Found", "What to do"):
        table.add_column(title, overflow="fold", no_wrap=title in ("", "What"))
    for check in checks:
        table.add_row(signs[check.state], check.name, escape(check.found), escape(check.advice))
    console = Console()
    console.print(table)
    console.print("\nCheckpoints of the engine megasam")
    console.print(checkpoint_table(checkpoints))
    if can_solve:
        console.print("\n[green]A solve can run on this machine.[/]")
    else:
        lacking = ", ".join(check.name for check in checks if check.state == "lack")
        console.print(f"\n[red]No solve can run on this machine: see {lacking}.[/]")
