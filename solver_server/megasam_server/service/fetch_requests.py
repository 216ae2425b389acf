"""Results on their way out, a piece at a time."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import Fetch, Piece

from megasam_server.service import counters as names
from megasam_server.service.answers import Answers
from megasam_server.service.background import Background
from megasam_server.service.counters import Counters
from megasam_server.service.jobs import JobStore
from megasam_server.service.ownership import Ownership
from megasam_server.service.sessions import Session

_KEPT_LISTINGS = 16
# Not on every system: no link is followed, nothing is handed to workers.
_SAFELY = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


class FetchRequests:
    """Answers Fetch: only files that the job's result lists, only inside its result folder."""

    def __init__(
        self,
        jobs: JobStore,
        ownership: Ownership,
        background: Background,
        answers: Answers,
        counters: Counters,
    ) -> None:
        self._jobs = jobs
        self._ownership = ownership
        self._background = background
        self._answers = answers
        self._counters = counters
        # Sizes of the artefacts of the jobs that are being fetched: their lists may be long.
        self._listings: OrderedDict[str, dict[str, int]] = OrderedDict()

    @property
    def handlers(self) -> Mapping[type, Callable[[Session, Any], None]]:
        return {Fetch: self._on_fetch}

    def _on_fetch(self, session: Session, fetch: Fetch) -> None:
        self._ownership.record(session, fetch.job)
        size = self._sizes_of(fetch.job).get(fetch.path)
        if size is None:
            raise MegasamError(
                "artefact_unknown", f"Job {fetch.job} has no result file {fetch.path[:200]!r}."
            )
        path = self._jobs.folder_of(fetch.job).results / fetch.path
        self._answers.later(
            self._background.chunks_of(fetch.job + fetch.path),
            session,
            fetch.request,
            partial(_read, path, fetch.offset, min(fetch.length, max(0, size - fetch.offset))),
            partial(self._piece, fetch),
        )

    def _piece(self, fetch: Fetch, data: bytes) -> Piece:
        self._counters.add(names.FETCHED_BYTES, len(data))
        return Piece(fetch.request, fetch.offset, data)

    def _sizes_of(self, job: str) -> dict[str, int]:
        sizes = self._listings.get(job)
        if sizes is None:
            result = self._jobs.result_of(job, 0)
            sizes = self._listings[job] = {a.path: a.size for a in result.artefacts}
            while len(self._listings) > _KEPT_LISTINGS:
                self._listings.popitem(last=False)
        self._listings.move_to_end(job)
        return sizes


def _read(path: Path, offset: int, length: int) -> bytes:
    try:
        with os.fdopen(os.open(path, _SAFELY), "rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise MegasamError(
            "result_missing",
            f"The result file {path.name} can no longer be read on the server: {error.strerror}.",
            "Solve the plate again.",
        ) from None
