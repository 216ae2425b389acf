"""Files on their way in: what is offered, which of it is wanted, and the chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import Chunk, ChunkTaken, FileContent, MediaFile, Need, Offer

from megasam_server.service import counters as names
from megasam_server.service.answers import Answers
from megasam_server.service.background import Background
from megasam_server.service.byte_size import byte_size
from megasam_server.service.counters import Counters
from megasam_server.service.options import UploadLimits
from megasam_server.service.ownership import Ownership
from megasam_server.service.sessions import Session


class UploadRequests:
    """Answers Offer and Chunk."""

    def __init__(
        self,
        ownership: Ownership,
        background: Background,
        answers: Answers,
        limits: UploadLimits,
        counters: Counters,
    ) -> None:
        self._ownership = ownership
        self._background = background
        self._answers = answers
        self._limits = limits
        self._counters = counters

    @property
    def handlers(self) -> Mapping[type, Callable[[Session, Any], None]]:
        return {Offer: self._on_offer, Chunk: self._on_chunk}

    def _on_offer(self, session: Session, offer: Offer) -> None:
        check_upload(offer.files, self._limits)
        self._answers.later(
            self._background.slow,
            session,
            offer.request,
            lambda: self._ownership.uploads_of(session).missing(offer.files),
            lambda wanted: Need(offer.request, wanted),
        )

    def _on_chunk(self, session: Session, chunk: Chunk) -> None:
        self._answers.later(
            self._background.chunks_of(chunk.sha256),
            session,
            chunk.request,
            lambda: self._ownership.uploads_of(session).write(
                chunk.sha256, chunk.offset, chunk.data
            ),
            partial(self._taken, chunk),
        )

    def _taken(self, chunk: Chunk, received: int) -> ChunkTaken:
        self._counters.add(names.UPLOADED_BYTES, len(chunk.data))
        return ChunkTaken(chunk.request, chunk.sha256, received)


def check_upload(files: Iterable[FileContent | MediaFile], limits: UploadLimits) -> None:
    """Refuse files that the server will not keep.

    Raises:
        MegasamError: ``too_many_files``, ``file_too_large`` or ``upload_too_large``.
    """
    sizes = [file.size for file in files]
    if len(sizes) > limits.files:
        raise MegasamError(
            "too_many_files",
            f"These are {len(sizes)} files; the server takes at most {limits.files} for one job.",
            "Solve a part of the plate with a frame range.",
        )
    if sizes and max(sizes) > limits.file_bytes:
        raise MegasamError(
            "file_too_large",
            f"A file has {byte_size(max(sizes))}; the server takes at most"
            f" {byte_size(limits.file_bytes)} each.",
            "Ask who runs the server to raise the limit, or solve a smaller version of the plate.",
        )
    if sum(sizes) > limits.submission_bytes:
        raise MegasamError(
            "upload_too_large",
            f"The files have {byte_size(sum(sizes))}; the server takes at most"
            f" {byte_size(limits.submission_bytes)} for one job.",
            "Solve a part of the plate with a frame range.",
        )
