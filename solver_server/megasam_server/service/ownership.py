"""Whose jobs and uploads are whose."""

from __future__ import annotations

from megasam_server.service.blobs import BlobStore
from megasam_server.service.jobs import JobRecord, JobStore
from megasam_server.service.sessions import Session
from megasam_server.service.storage import Storage


class Ownership:
    """What a client may see: its own, or everything when jobs are shared.

    Each owner has a store of uploads of its own. What one client has sent is new to the server
    when another offers it: so the answer to an offer tells nothing about others, and nobody can
    spoil another's half-sent file. The price is that a plate two clients send is kept twice.

    Args:
        storage: where the uploads are.
        shared: everybody may do everything with every job and upload.
    """

    def __init__(self, storage: Storage, jobs: JobStore, shared: bool) -> None:
        self._storage = storage
        self._jobs = jobs
        self._shared = shared

    def record(self, session: Session, job: str) -> JobRecord:
        """The job, when the session may have to do with it.

        Raises:
            MegasamError: ``job_unknown``, in the same words for a job of somebody else and for
                none at all.
        """
        record = self._jobs.get(job)
        if not self._shared and record.owner != session.owner:
            raise self._jobs.unknown(job)
        return record

    def listed_owner(self, session: Session) -> str | None:
        """The owner whose jobs the session may list; None for all."""
        return None if self._shared else session.owner

    def uploads_of(self, session: Session) -> BlobStore:
        """Where the session's uploads are. From any thread."""
        return self._storage.uploads_of("" if self._shared else session.owner)
