"""One solve from the files of a plate to a folder with results, through a server.

The same sequence for the command line, the demo, the standalone window and Maya: find files,
upload, submit, wait, fetch, and only then give the result folder its name.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megasam_shared.client import SolverClient
from megasam_shared.errors import MegasamError
from megasam_shared.plate_files import find_plate_files
from megasam_shared.protocol import (
    DEFAULT_PRIORITY,
    Error,
    JobChanged,
    JobInfo,
    Media,
    Progress,
    Result,
)
from megasam_shared.quality import is_usable
from megasam_shared.settings import SolveSettings
from megasam_shared.transfer import not_writable

# A folder that has this file was written by a solve and may be replaced by the next one.
_SIGN_OF_A_SOLVE = "quality.json"


class SolveWatcher:
    """What a solve tells while it runs; subclasses show what they like. Calls come in one thread,
    the one that runs :func:`solve_remotely`."""

    def on_upload(self, done: int, total: int) -> None:
        """Bytes of plate and masks that the server has, and all of them."""

    def on_job(self, job: JobInfo) -> None:
        """The job was queued, started or ended."""

    def on_progress(self, progress: Progress) -> None:
        """At least once a second while the job runs."""

    def on_notice(self, notice: MegasamError) -> None:
        """What the server tells unasked while the job is there: that it is about to stop."""

    def on_fetch(self, done: int, total: int) -> None:
        """Bytes of the results that are here, and all of them."""


@dataclass(frozen=True)
class FinishedSolve:
    """Results that lie in ``folder``; ``result`` is the map that the solver returned."""

    job: str
    result: dict[str, Any]
    folder: Path

    @property
    def usable(self) -> bool:
        """The solver says that the camera may be used."""
        return is_usable(self._quality, self.result)

    @property
    def verdict(self) -> str:
        """``good``, ``check`` or ``failed``."""
        return str(self._quality.get("verdict", "failed"))

    @property
    def reasons(self) -> list[str]:
        """Why the verdict is not better."""
        return [str(reason) for reason in self._quality.get("reasons", [])]

    @property
    def _quality(self) -> dict[str, Any]:
        quality = self.result.get("quality")
        return quality if isinstance(quality, dict) else {}


def solve_remotely(
    client: SolverClient,
    plate: Path,
    out: Path,
    settings: SolveSettings,
    *,
    masks: Path | None = None,
    by_path: bool = False,
    priority: int = DEFAULT_PRIORITY,
    watcher: SolveWatcher | None = None,
) -> FinishedSolve:
    """Solve a plate on a server and write the results to ``out``.

    Results arrive in ``<out>.partial``, which gets its name when they are complete; on any failure
    it is removed and an earlier solve in ``out`` stays. When the calling thread is interrupted, or
    something fails here, the job is cancelled on the server.

    Args:
        by_path: do not upload; the server reads ``plate`` and ``masks`` below its media roots.
        priority: 0 to 100, more is earlier.

    Raises:
        MegasamError: whatever went wrong, on either side; a job that failed raises its error, one
            that somebody cancelled ``job_cancelled``.
    """
    watcher = watcher or SolveWatcher()
    check_output(out)
    partial = out.with_name(out.name + ".partial")
    try:
        # Before the solve: a folder that cannot be written is better known now.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise not_writable(partial, error) from None
    try:
        result = _solve(client, plate, masks, settings, by_path, priority, watcher)
        client.fetch(result.job, result.artefacts, partial, watcher.on_fetch)
        _replace(out, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return FinishedSolve(result.job, result.result, out)


def _solve(
    client: SolverClient,
    plate: Path,
    masks: Path | None,
    settings: SolveSettings,
    by_path: bool,
    priority: int,
    watcher: SolveWatcher,
) -> Result:
    if by_path:
        name = plate.stem
        plate_media = Media(path=str(plate.absolute()))
        mask_media = None if masks is None else Media(path=str(masks.absolute()))
    else:
        files = find_plate_files(plate, masks, settings)
        name = files.name
        # One upload for both, so that there is one bar that goes from 0 to all.
        media = client.upload([*files.plate, *(files.masks or [])], watcher.on_upload)
        plate_media = Media(files=media.files[: len(files.plate)])
        mask_media = None
        if files.masks is not None:
            mask_media = Media(files=media.files[len(files.plate) :])
    job = client.submit(plate_media, settings, masks=mask_media, name=name, priority=priority)
    watcher.on_job(job)
    last_told = job

    def pass_on(event: Progress | JobChanged | Error) -> None:
        nonlocal last_told
        if isinstance(event, Progress):
            watcher.on_progress(event)
        elif isinstance(event, Error):
            watcher.on_notice(event.to_error())
        elif event.job != last_told:
            last_told = event.job
            watcher.on_job(event.job)

    try:
        # The job goes on without us: after a cut, its news are asked for again.
        result = client.through_cuts(lambda: client.wait(job.job, pass_on))
    except BaseException as error:
        if not (isinstance(error, MegasamError) and error.code == "server_lost"):
            client.cancel(job.job, timeout=5)
        raise
    if result.state == "cancelled":
        raise MegasamError("job_cancelled", "The job was cancelled.")
    if result.error is not None:
        raise result.error.to_error()
    return result


def check_output(out: Path) -> None:
    """Raises:
    MegasamError: ``output_exists`` when ``out`` holds anything but an earlier solve.
    """
    is_free = not out.exists() or (
        out.is_dir() and ((out / _SIGN_OF_A_SOLVE).exists() or not any(out.iterdir()))
    )
    if not is_free:
        raise MegasamError(
            "output_exists",
            f"{out} exists and is not the folder of an earlier solve.",
            "Choose another folder with --out, or remove it.",
        )


def _replace(out: Path, partial: Path) -> None:
    """Give ``partial`` the name ``out``; an earlier solve there goes only when that worked."""
    old = out.with_name(out.name + ".old")
    try:
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        partial.rename(out)
    except OSError as error:
        if old.exists() and not out.exists():
            old.rename(out)
        raise not_writable(out, error) from None
    shutil.rmtree(old, ignore_errors=True)
