"""What lies in the state folder: whose it is, how much it may be, and what may go.

Uploads and results stay until nobody has used them for the time to live, or until their room is
needed. Nothing that a waiting or running job needs is ever touched. Ages are counted by the
:mod:`service clock <megasam_server.service.service_clock>`, not by the clock on the wall.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import FileContent

from megasam_server.pipeline.stage_cache import entries, is_unfinished
from megasam_server.service.blobs import BlobStore
from megasam_server.service.byte_size import byte_size
from megasam_server.service.job_folder import JobFolder
from megasam_server.service.options import StorageLimits
from megasam_server.service.state_index import BLOBS_FOLDER, CACHE_FOLDER, JOBS_FOLDER, connect

_log = logging.getLogger(__name__)

# Between the answer to an offer and the submission; nothing used so lately is in the way.
_GRACE = 600.0
# Half-sent files that nobody goes on with, and offers that nothing followed.
_STALE_PART = 24 * 3600.0
_STALE_OFFER = 3600.0
_STALE_CACHE = 14 * 24 * 3600.0
_UNFINISHED_CACHE = 6 * 3600.0


@dataclass
class Collected:
    """What was removed.

    Attributes:
        jobs, uploads, parts, stage_outputs: how many of each; ``parts`` are half-sent files.
        bytes: that this freed, about.
    """

    jobs: int = 0
    uploads: int = 0
    parts: int = 0
    stage_outputs: int = 0
    bytes: int = 0


class Storage:
    """The uploads of all owners, and the removal of everything that is no longer needed.

    Safe to use from several threads.

    Args:
        state: the state folder; its index is there.
        now: seconds of the service clock.
        wall: seconds since the epoch; decides about kept stage outputs only, which cost nothing but
            time when they are lost.
    """

    def __init__(
        self,
        state: Path,
        limits: StorageLimits,
        now: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._blobs = state / BLOBS_FOLDER
        self._jobs = state / JOBS_FOLDER
        self._cache = state / CACHE_FOLDER
        self._limits = limits
        self._now = now
        self._wall = wall
        self._stores: dict[str, BlobStore] = {}
        self._lock = threading.RLock()
        self._blobs.mkdir(exist_ok=True)
        self._db = connect(state)
        self._db.create_function("upload_folder", 1, upload_folder, deterministic=True)

    def close(self) -> None:
        with self._lock:
            for store in self._stores.values():
                store.close()
            self._db.close()

    def uploads_of(self, owner: str) -> BlobStore:
        """The store with the uploads of an owner."""
        return self._store(upload_folder(owner))

    def _store(self, folder: str) -> BlobStore:
        with self._lock:
            store = self._stores.get(folder)
            if store is None:
                store = BlobStore(self._blobs / folder, partial(self.admit, folder))
                self._stores[folder] = store
            return store

    # --- who may bring how much

    def admit(self, folder: str, files: Iterable[FileContent]) -> None:
        """Note that files of an owner are used now; make room for those that are new.

        Args:
            folder: of the owner's uploads.

        Raises:
            MegasamError: ``quota_exceeded`` or ``storage_exceeded``.
        """
        limits = self._limits
        sizes = {file.sha256: file.size for file in files}
        with self._lock:
            known = self._sizes_of(folder)
            coming = sum(size for sha256, size in sizes.items() if sha256 not in known)
            self._note(folder, sizes)
            if not coming:
                return
            try:
                if limits.client_bytes is not None:
                    over = self._bytes_of(folder) - limits.client_bytes
                    over -= self._remove_uploads_to_free(over, folder)
                    if over > 0:
                        raise _quota_exceeded(coming, over, limits.client_bytes)
                if limits.all_bytes is not None:
                    over = self._all_bytes() - limits.all_bytes
                    over -= self._make_room(over, Collected())
                    if over > 0:
                        raise _storage_exceeded(coming)
            except MegasamError:
                for sha256 in sizes.keys() - known.keys():
                    self._forget(folder, sha256)
                raise

    def _sizes_of(self, folder: str) -> dict[str, int]:
        rows = self._db.execute("SELECT sha256, size FROM uploads WHERE owner = ?", (folder,))
        return {row["sha256"]: row["size"] for row in rows}

    def _note(self, folder: str, sizes: dict[str, int]) -> None:
        now = self._now()
        with self._transaction():
            self._db.executemany(
                "INSERT INTO uploads VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET size = excluded.size, used = excluded.used",
                [(folder, sha256, size, now) for sha256, size in sizes.items()],
            )

    def _forget(self, folder: str, sha256: str) -> None:
        self._db.execute("DELETE FROM uploads WHERE owner = ? AND sha256 = ?", (folder, sha256))

    def _bytes_of(self, folder: str) -> int:
        """Uploads, those on their way too, and results of one owner."""
        uploads = self._sum("size FROM uploads WHERE owner = ?", folder)
        return uploads + self._sum("bytes FROM jobs WHERE upload_folder(owner) = ?", folder)

    def _all_bytes(self) -> int:
        cached = sum(size for _, size, _, _ in entries(self._cache))
        return self._sum("size FROM uploads") + self._sum("bytes FROM jobs") + cached

    def _sum(self, what: str, *values: str) -> int:
        column, _, rest = what.partition(" ")
        query = f"SELECT coalesce(sum({column}), 0) {rest}"
        return self._db.execute(query, values).fetchone()[0]

    # --- what may go

    def collect(self, limits: StorageLimits | None = None) -> Collected:
        """Remove what is older than the limits say (the storage's own, unless given), and more
        where there is too much."""
        limits = limits or self._limits
        collected = Collected()
        with self._lock:
            self._compare_with_disk()
        if limits.ttl is not None:
            self._remove_jobs(self._now() - limits.ttl, collected)
        self._remove_old_uploads(limits.ttl, collected)
        self._remove_old_stage_outputs(limits.cache_bytes, collected)
        if limits.all_bytes is not None:
            with self._lock:
                self._make_room(self._all_bytes() - limits.all_bytes, collected)
        return collected

    def _compare_with_disk(self) -> None:
        """Files that the index does not know are new to it; what it knows and is not there goes."""
        now = self._now()
        for path in self._blobs.iterdir():
            if path.is_file() or len(path.name) == 2:
                # An earlier version's, which did not tell owners apart.
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                continue
            store = self._store(path.name)
            there = {sha256: size for sha256, size, _ in store.files()}
            known = self._sizes_of(path.name)
            self._note(path.name, {s: size for s, size in there.items() if s not in known})
            with self._transaction():
                self._db.executemany(
                    "DELETE FROM uploads WHERE owner = ? AND sha256 = ? AND used < ?",
                    [(path.name, s, now - _STALE_OFFER) for s in known if s not in there],
                )

    def _remove_jobs(self, ended_before: float, collected: Collected) -> None:
        with self._lock:
            rows = self._db.execute(
                "SELECT id, bytes FROM jobs WHERE finished IS NOT NULL AND ended < ?",
                (ended_before,),
            ).fetchall()
        for row in rows:
            folder = JobFolder(self._jobs / row["id"])
            # In this order a kill in between leaves nothing that looks like a job.
            folder.record.unlink(missing_ok=True)
            with self._lock:
                self._db.execute("DELETE FROM jobs WHERE id = ?", (row["id"],))
            shutil.rmtree(folder.path, ignore_errors=True)
            collected.jobs += 1
            collected.bytes += row["bytes"]

    def _remove_old_uploads(self, ttl: float | None, collected: Collected) -> None:
        now = self._now()
        for path in self._blobs.iterdir():
            for sha256, _, whole in list(self._store(path.name).files()):
                limit = ttl if whole else _STALE_PART if ttl is None else min(_STALE_PART, ttl)
                if limit is not None:
                    self._remove_upload(path.name, sha256, now - limit, collected)

    def _remove_upload(
        self, folder: str, sha256: str, used_before: float, collected: Collected
    ) -> bool:
        """Remove a file if no job has it and nobody has used it since; whoever offers it from now
        on finds that it is not there."""
        store = self._store(folder)
        with self._lock:
            if store.in_use(sha256):
                return False
            found = self._db.execute(
                "DELETE FROM uploads WHERE owner = ? AND sha256 = ? AND used < ?",
                (folder, sha256, used_before),
            )
            if not found.rowcount:
                return False
            was_whole = store.has(sha256)
            collected.bytes += store.remove(sha256)
        if was_whole:
            collected.uploads += 1
        else:
            collected.parts += 1
        return True

    def _remove_old_stage_outputs(self, most_bytes: int, collected: Collected) -> None:
        now = self._wall()
        found = sorted(entries(self._cache), key=lambda entry: entry[3], reverse=True)
        kept = 0
        for entry, size, freed, used in found:
            limit = _UNFINISHED_CACHE if is_unfinished(entry) else _STALE_CACHE
            kept += size
            if now - used > limit or kept > most_bytes:
                kept -= size
                self._remove_stage_output(entry, freed, collected)

    def _remove_stage_output(self, entry: Path, freed: int, collected: Collected) -> None:
        shutil.rmtree(entry, ignore_errors=True)
        collected.stage_outputs += 1
        collected.bytes += freed

    def _make_room(self, wanted: int, collected: Collected) -> int:
        """Free ``wanted`` bytes of what was not used for longest, outputs of stages first; returns
        how many it were."""
        freed = 0
        for entry, size, on_disk, _ in sorted(entries(self._cache), key=lambda entry: entry[3]):
            if freed >= wanted:
                return freed
            if not is_unfinished(entry):
                self._remove_stage_output(entry, on_disk, collected)
                freed += size
        return freed + self._remove_uploads_to_free(wanted - freed, None, collected)

    def _remove_uploads_to_free(
        self, wanted: int, folder: str | None, collected: Collected | None = None
    ) -> int:
        """The same with uploads; of one owner, or of all."""
        collected = collected or Collected()
        freed = 0
        before = self._now() - _GRACE
        rows = self._db.execute(
            "SELECT owner, sha256, size FROM uploads WHERE (?1 IS NULL OR owner = ?1) AND used < ?2"
            " ORDER BY used",
            (folder, before),
        ).fetchall()
        for row in rows:
            if freed >= wanted:
                break
            if self._remove_upload(row["owner"], row["sha256"], before, collected):
                freed += row["size"]
        return freed

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Many statements, one write to the disk; nothing of them when one fails."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:  # commits, or rolls back
            yield


def upload_folder(owner: str) -> str:
    """Name of the folder with the uploads of an owner."""
    return hashlib.sha256(owner.encode()).hexdigest()[:32] if owner else "shared"


def _quota_exceeded(coming: int, over: int, limit: int) -> MegasamError:
    return MegasamError(
        "quota_exceeded",
        f"The server keeps {byte_size(limit)} of uploads and results for each client; with these"
        f" {byte_size(coming)} it would be {byte_size(over)} too much.",
        "Solve a shorter range, wait until earlier results are removed, or ask who runs the server"
        " for a larger quota.",
    )


def _storage_exceeded(coming: int) -> MegasamError:
    return MegasamError(
        "storage_exceeded",
        f"The server has no room for these {byte_size(coming)}: uploads and results of its clients"
        " take all that it may keep.",
        "Try again later, or ask who runs the server to give it more room or to run 'megasam gc'.",
    )
