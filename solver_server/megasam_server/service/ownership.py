"""Whose jobs and uploads are whose."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from megasam_server.service.blobs import BlobStore
from megasam_server.service.jobs import JobRecord, JobStore
from megasam_server.service.sessions import Session


class Ownership:
    """What a client may see: its own, or everything when jobs are shared.

    Each owner has a store of uploads of its own. What one client has sent is new to the server
    when another offers it: so the answer to an offer tells nothing about others, and nobody can
    spoil another's half-sent file. The price is that a plate two clients send is kept twice.

    Args:
        state: the server's state folder.
        shared: everybody may do everything with every job and upload.
    """

    def __init__(self, state: Path, jobs: JobStore, shared: bool) -> None:
        self._blobs = state / "blobs"
        self._jobs = jobs
        self._shared = shared
        self._stores: dict[str, BlobStore] = {}
        self._lock = threading.Lock()

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
        folder = upload_folder("" if self._shared else session.owner)
        with self._lock:
            store = self._stores.get(folder)
            if store is None:
                store = self._stores[folder] = BlobStore(self._blobs / folder)
            return store

    def close(self) -> None:
        with self._lock:
            for store in self._stores.values():
                store.close()


def upload_folder(owner: str) -> str:
    """Name of the folder with the uploads of an owner."""
    return hashlib.sha256(owner.encode()).hexdigest()[:32] if owner else "shared"
