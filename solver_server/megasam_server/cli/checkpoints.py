"""``megasam checkpoints``: which weights are there, whether they are right, and their licences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from megasam_shared.transfer import HashCache
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megasam_server.checkpoints.facts import checkpoint_facts, glance_at_all
from megasam_server.checkpoints.importing import import_file, recognise
from megasam_server.checkpoints.locate import (
    CHECKPOINTS_VARIABLE,
    built_in_here,
    checkpoint_folder,
    hash_cache_path,
)
from megasam_server.checkpoints.registry import (
    CHECKPOINTS,
    Checkpoint,
    find_checkpoint,
    refuse_non_commercial,
)
from megasam_server.checkpoints.verify import CheckpointStatus, verify

EXIT_DAMAGED = 1
STATES = {
    "missing": ("-", "missing"),
    "unchecked": ("[yellow]•[/]", "not verified"),
    "verified": ("[green]✓[/]", "verified"),
    "fits": ("[green]✓[/]", "fits"),
    "damaged": ("[red]✗[/]", "damaged"),
}
BUILT_IN = ("[green]✓[/]", "built in")

app = typer.Typer(
    help="The weights of the networks: which are there, and what their licences allow.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help=f"Folder of checkpoints; default: ${CHECKPOINTS_VARIABLE}, or the user's data folder.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="The same as JSON.")]


@app.command("list")
def list_checkpoints(folder: Folder = None, as_json: AsJson = False) -> None:
    """Show every known checkpoint, whether it is there, and its licence."""
    _show(_folder(folder), glance_at_all(_text(folder)), as_json)


@app.command("verify")
def verify_checkpoints(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these.")
    ] = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Read the checkpoints that are there, and compare size, SHA-256 or names and shapes.

    Exit code 1 when one of them is damaged, or one that was named is missing.
    """
    wanted = [find_checkpoint(name) for name in names or []]
    where = _folder(folder)
    hashes = HashCache(hash_cache_path())
    all_known = [*CHECKPOINTS, *built_in_here()]
    statuses = [verify(checkpoint, where, hashes) for checkpoint in wanted or all_known]
    hashes.save()
    _show(where, statuses, as_json)
    bad = ("damaged", "missing") if wanted else ("damaged",)
    if any(status.state in bad for status in statuses):
        raise typer.Exit(EXIT_DAMAGED)


@app.command("import")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A downloaded weight file.")],
    folder: Folder = None,
    commercial_only: Annotated[
        bool,
        typer.Option("--commercial-only", help="Refuse a licence that forbids commercial use."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find out which checkpoint FILE is, and copy it to its place."""
    recognised = recognise(file)
    checkpoint = recognised.checkpoint
    if commercial_only:
        refuse_non_commercial(checkpoint)
    path = import_file(file, recognised, _folder(folder))
    if as_json:
        state = "verified" if recognised.by_hash else "fits"
        fact = checkpoint_facts([CheckpointStatus(checkpoint, path, state)])[0]
        print(json.dumps({"path": str(path), "sha256": recognised.sha256} | asdict(fact)))
        return
    how = "by its SHA-256" if recognised.by_hash else "by the names and shapes of its tensors"
    print(f"{checkpoint.title}, recognised {how}: {path}")
    print(_licence(checkpoint))


def _folder(folder: Path | None) -> Path:
    return checkpoint_folder(_text(folder))


def _text(folder: Path | None) -> str:
    return "" if folder is None else str(folder)


def _licence(checkpoint: Checkpoint) -> str:
    allowed = (
        "allows commercial use"
        if checkpoint.commercial_use
        else "NOT FOR COMMERCIAL USE: what is"
        " made with it may not be delivered to a paying customer"
    )
    return f"Licence {checkpoint.licence} ({checkpoint.licence_source}): {allowed}."


def _show(folder: Path, statuses: Sequence[CheckpointStatus], as_json: bool) -> None:
    if as_json:
        facts = [asdict(fact) for fact in checkpoint_facts(statuses)]
        print(json.dumps({"folder": str(folder), "checkpoints": facts}, indent=1))
        return
    console = Console()
    console.print(checkpoint_table(statuses))
    console.print(f"\nFolder: {escape(str(folder))}", soft_wrap=True)
    for status in statuses:
        if status.reason:
            console.print(f"{escape(status.reason)}", soft_wrap=True)
    missing = [status for status in statuses if status.state == "missing"]
    if missing:
        console.print("Download from these pages, then `megasam checkpoints import FILE`:")
    for status in missing:
        console.print(f"  {status.checkpoint.files[0].source}", soft_wrap=True)


def sign_and_state(status: CheckpointStatus) -> tuple[str, str]:
    """How a person reads the state of a checkpoint."""
    return BUILT_IN if status.checkpoint.built_in and status.usable else STATES[status.state]


def checkpoint_table(statuses: Sequence[CheckpointStatus]) -> Table:
    """One row per checkpoint: what it is, whether it is there, its licence."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("", "File", "For", "MB", "State", "Licence", "Commercial"):
        justify = "right" if title == "MB" else "left"
        table.add_column(title, justify=justify, no_wrap=title in ("", "File", "MB", "Licence"))
    for status, fact in zip(statuses, checkpoint_facts(statuses), strict=True):
        sign, state = sign_and_state(status)
        table.add_row(
            sign,
            fact.file,
            fact.purpose,
            f"{fact.size / 1e6:,.0f}" if fact.size else "?",
            state,
            fact.licence,
            "[green]yes[/]" if fact.commercial_use else "[red]no[/]",
        )
    return table
