"""What a server does for its state folder while it runs: keep time, and remove what may go.

``megasam gc`` beside a running server leaves a request in the state folder and finds the answer
there: whoever may write in that folder may ask.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megasam_shared.errors import MegasamError

from megasam_server.service.byte_size import byte_size
from megasam_server.service.job_folder import write_whole
from megasam_server.service.jobs import JobStore
from megasam_server.service.options import StorageLimits
from megasam_server.service.storage import Collected, Storage

_log = logging.getLogger(__name__)

_SAVE_CLOCK_EVERY = 60.0
_COLLECT_EVERY = 600.0
_FIRST_COLLECT_AFTER = 60.0
_LOOK_FOR_REQUEST_EVERY = 0.5
_REQUEST = "gc-request.json"
_ANSWER = "gc-answer.json"
_ANSWER_TIMEOUT = 600.0


class Housekeeping:
    """Used by the server's thread.

    Args:
        state: the state folder.
        in_background: runs a function in some thread, for work that takes long.
        now: monotonic seconds when the server starts.
    """

    def __init__(
        self,
        state: Path,
        jobs: JobStore,
        storage: Storage,
        in_background: Callable[[Callable[[], None]], Any],
        now: float,
    ) -> None:
        self._state = state
        self._jobs = jobs
        self._storage = storage
        self._in_background = in_background
        self._save_clock_at = now + _SAVE_CLOCK_EVERY
        self._collect_at = now + _FIRST_COLLECT_AFTER
        self._look_at = now

    def tick(self, now: float) -> None:
        """Called several times a second with monotonic seconds."""
        if now >= self._save_clock_at:
            self._save_clock_at = now + _SAVE_CLOCK_EVERY
            try:
                self._jobs.save_clock()
            except MegasamError as error:
                _log.warning("the server's clock could not be saved: %s", error)
        if now >= self._look_at:
            self._look_at = now + _LOOK_FOR_REQUEST_EVERY
            request = self._state / _REQUEST
            if request.exists():
                asked = _read(request)
                request.unlink(missing_ok=True)
                self._in_background(lambda: self._collect(asked))
        if now >= self._collect_at:
            self._collect_at = now + _COLLECT_EVERY
            self._in_background(lambda: self._collect({}))

    def _collect(self, asked: dict) -> None:
        try:
            limits = StorageLimits(**asked["limits"]) if asked else None
            collected = self._storage.collect(limits)
        except Exception:
            _log.exception("the state folder could not be cleaned")
            return
        if collected != Collected():
            _log.info("removed %s", describe(collected))
        if asked:
            answer = {"id": asked["id"], **dataclasses.asdict(collected)}
            write_whole(self._state / _ANSWER, json.dumps(answer).encode())


def ask_server_to_collect(
    state: Path, limits: StorageLimits, timeout: float = _ANSWER_TIMEOUT
) -> Collected:
    """Let the server that uses the state folder clean it now, by these limits.

    Raises:
        MegasamError: ``server_timeout``.
    """
    number = secrets.token_hex(8)
    asked = {"id": number, "limits": dataclasses.asdict(limits)}
    write_whole(state / _REQUEST, json.dumps(asked).encode())
    deadline = time.monotonic() + timeout
    while (answer := _read(state / _ANSWER)).pop("id", None) != number:
        if time.monotonic() > deadline:
            (state / _REQUEST).unlink(missing_ok=True)
            raise MegasamError(
                "server_timeout",
                f"The server that uses {state} did not clean it within {timeout:g} s.",
                "Its disk may be very busy; look at its log.",
            )
        time.sleep(0.1)
    (state / _ANSWER).unlink(missing_ok=True)
    return Collected(**answer)


def describe(collected: Collected) -> str:
    """One line for people."""
    return (
        f"{collected.jobs} jobs, {collected.uploads} uploads, {collected.parts} half-sent files,"
        f" {collected.stage_outputs} stage outputs: {byte_size(collected.bytes)}"
    )


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
