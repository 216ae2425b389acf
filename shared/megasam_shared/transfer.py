"""Files to and from the server: by content, in windows of chunks, verified by hash.

Both directions keep a few chunks in flight, across file borders: enough that many small frames do
not wait for one round trip each, few enough that a large movie never fills the memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from megasam_shared.connection import Connection, answer_of
from megasam_shared.errors import MegasamError
from megasam_shared.file_names import safe_name, safe_path_below
from megasam_shared.protocol import (
    CHUNK_BYTES,
    MAX_FILES,
    Artefact,
    Chunk,
    Fetch,
    FileContent,
    MediaFile,
    Need,
    Offer,
)

WINDOW = 8
_ANSWER_TIMEOUT = 60.0
# The server reads a half-uploaded file again before it says where to go on.
_OFFER_TIMEOUT = 600.0
_ATTEMPTS = 3
# A file younger than this may still change without its time stamp changing.
_SETTLED_SECONDS = 2.0
_REMEMBERED_HASHES = 100_000

OnBytes = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class HashCache:
    """Remembers the SHA-256 of files by path, size and modification time.

    Args:
        path: where to keep it between runs; None keeps it in memory only. An unreadable file
            counts as empty, one that cannot be written is not an error: it is only a cache.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, list] = {}
        if path is not None:
            try:
                self._known = dict(json.loads(path.read_text("utf-8")))
            except (OSError, ValueError, TypeError):
                self._known = {}

    def content_of(self, path: Path) -> FileContent:
        """Hash and size of a file; reads it only when it is not known or has changed.

        Raises:
            MegasamError: ``plate_unreadable`` or ``plate_file_empty``.
        """
        try:
            stat = path.stat()
            if stat.st_size == 0:
                raise MegasamError(
                    "plate_file_empty",
                    f"{path} is empty (0 bytes).",
                    "Render or copy that file again.",
                )
            known = self.known(path)
            if known is not None:
                return known
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(path, error) from None
        if time.time() - stat.st_mtime > _SETTLED_SECONDS:
            self._known[str(path.absolute())] = [stat.st_size, stat.st_mtime_ns, digest]
        return FileContent(digest, stat.st_size)

    def known(self, path: Path) -> FileContent | None:
        """Hash and size of a file that is remembered and has not changed; None for others."""
        stat = path.stat()
        known = self._known.get(str(path.absolute()))
        mark = [stat.st_size, stat.st_mtime_ns]
        if isinstance(known, list) and known[:2] == mark and len(known) == 3:
            return FileContent(str(known[2]), stat.st_size)
        return None

    def forget(self, path: Path) -> None:
        self._known.pop(str(path.absolute()), None)

    def save(self) -> None:
        """Write the cache to its file, the newest entries of it."""
        if self._path is None:
            return
        newest = dict(list(self._known.items())[-_REMEMBERED_HASHES:])
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(newest), "utf-8")
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)


def upload_files(
    connection: Connection,
    files: Sequence[Path],
    hashes: HashCache,
    on_bytes: OnBytes | None = None,
) -> list[MediaFile]:
    """Bring files to the server; what it has already is not sent, half-sent files go on.

    Returns:
        One entry per file, in order, for :class:`~megasam_shared.protocol.Media`.

    Raises:
        MegasamError: ``plate_unreadable``, ``plate_file_empty``, ``too_many_files``,
            ``upload_incomplete`` (the files change while they are sent), or what the server says
            (``server_disk_full``, ``server_lost`` ...).
    """
    if len(files) > MAX_FILES:
        raise MegasamError(
            "too_many_files",
            f"The plate has {len(files)} files; a job takes at most {MAX_FILES}.",
            "Solve a part of it with a frame range.",
        )
    for attempt in range(_ATTEMPTS):
        contents = [hashes.content_of(path) for path in files]
        hashes.save()
        path_of = dict(zip(contents, files, strict=True))
        total = sum(content.size for content in path_of)
        need: Need = connection.request(Offer, _OFFER_TIMEOUT, files=list(path_of))
        if not need.files:
            if on_bytes:
                on_bytes(total, total)
            return [
                MediaFile(safe_name(path.name), content.sha256, content.size)
                for path, content in zip(files, contents, strict=True)
            ]
        if attempt == _ATTEMPTS - 1:
            break
        by_hash = {content.sha256: (content, path) for content, path in path_of.items()}
        wanted = [(*by_hash[w.sha256], w.offset) for w in need.files if w.sha256 in by_hash]
        missing = sum(content.size - offset for content, _, offset in wanted)
        try:
            _send_all(connection, wanted, total - missing, total, on_bytes)
        except MegasamError as error:
            if error.code != "upload_corrupt":
                raise
            # A file changed since it was hashed, or the server kept a damaged beginning of it and
            # has now thrown it away. Either way, begin again from the files as they are.
            for path in files:
                hashes.forget(path)
    raise MegasamError(
        "upload_incomplete",
        f"The server still lacks {len(need.files)} files after {_ATTEMPTS - 1} uploads.",
        "Check that nothing writes to the plate meanwhile, and try again.",
    )


def _send_all(
    connection: Connection,
    wanted: Iterable[tuple[FileContent, Path, int]],
    done: int,
    total: int,
    on_bytes: OnBytes | None,
) -> None:
    def chunks() -> Iterator[tuple[int, Future]]:
        for content, path, start in wanted:
            for offset, data in _chunks_of(path, start, content.size):
                fields = {"sha256": content.sha256, "offset": offset, "data": data}
                yield len(data), connection.send(Chunk, **fields)

    for size, _ in _windowed(chunks()):
        done += size
        if on_bytes:
            on_bytes(min(done, total), total)


def _chunks_of(path: Path, start: int, size: int) -> Iterator[tuple[int, memoryview]]:
    """Offset and content of each piece; the content is valid until the next one is asked for."""
    # One piece of memory for all: fresh memory for each costs as much as sending it.
    piece = memoryview(bytearray(min(CHUNK_BYTES, size - start)))
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while start < size and (count := file.readinto(piece[: size - start])):
                yield start, piece[:count]
                start += count
    except OSError as error:
        raise unreadable(path, error) from None


def _windowed(sent: Iterator[tuple[Any, Future]]) -> Iterator[tuple[Any, Any]]:
    """Pull requests from ``sent`` so that WINDOW are on the way; yield their answers in order."""
    waiting: deque[tuple[Any, Future]] = deque()
    for item in sent:
        waiting.append(item)
        if len(waiting) >= WINDOW:
            what, future = waiting.popleft()
            yield what, answer_of(future, _ANSWER_TIMEOUT)
    for what, future in waiting:
        yield what, answer_of(future, _ANSWER_TIMEOUT)


def fetch_artefacts(
    connection: Connection,
    job: str,
    artefacts: Sequence[Artefact],
    folder: Path,
    on_bytes: OnBytes | None = None,
) -> list[Path]:
    """Bring result files home.

    Each file grows under a temporary name beside its place and gets its name when its hash is
    right, so a cut leaves no file that looks finished; a later call goes on where the cut was, and
    takes no file again that is there already.

    Returns:
        The files written, in the order of ``artefacts``.

    Raises:
        MegasamError: ``name_unsafe``, ``output_not_writable``, ``fetch_corrupt`` or what the
            server says.
    """
    targets = [safe_path_below(folder, artefact.path) for artefact in artefacts]
    total = sum(artefact.size for artefact in artefacts)
    incoming = [_Incoming(a, t) for a, t in zip(artefacts, targets, strict=True)]

    done = 0

    def pieces() -> Iterator[tuple[_Incoming, Future]]:
        nonlocal done
        for file in incoming:
            file.open()
            done += file.written
            for offset in range(file.written, file.artefact.size, CHUNK_BYTES):
                length = min(CHUNK_BYTES, file.artefact.size - offset)
                fields = {"job": job, "path": file.artefact.path}
                yield file, connection.send(Fetch, **fields, offset=offset, length=length)

    try:
        for file, piece in _windowed(pieces()):
            file.write(piece.offset, piece.data)
            done += len(piece.data)
            if on_bytes:
                on_bytes(done, total)
    except OSError as error:
        raise not_writable(folder, error) from None
    finally:
        for file in incoming:
            file.close()
    if on_bytes:
        on_bytes(total, total)
    return targets


class _Incoming:
    """A result file on its way in."""

    def __init__(self, artefact: Artefact, target: Path) -> None:
        self.artefact = artefact
        self.written = 0
        self._target = target
        self._part = target.with_name(f".{target.name}.{artefact.sha256[:8]}.part")
        self._file: Any = None
        self._hash = hashlib.sha256()

    def open(self) -> None:
        """Open the temporary file and hash what an earlier fetch left in it."""
        if self._is_there():
            self.written = self.artefact.size
            return
        self._part.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a full disk is noticed at the write, not when the file is closed.
        self._file = self._part.open("a+b", buffering=0)
        self._file.seek(0)
        while data := self._file.read(CHUNK_BYTES):
            self._hash.update(data)
            self.written += len(data)
        if self.written > self.artefact.size:
            self._file.truncate(0)
            self.written, self._hash = 0, hashlib.sha256()
        self._finish_when_complete()

    def _is_there(self) -> bool:
        """An earlier fetch has finished this file."""
        if not self._target.is_file() or self._target.stat().st_size != self.artefact.size:
            return False
        with self._target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.artefact.sha256

    def write(self, offset: int, data: bytes) -> None:
        expected = min(CHUNK_BYTES, self.artefact.size - self.written)
        if offset != self.written or len(data) != expected:
            raise self._corrupt()
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._hash.update(data)
        self.written += len(data)
        self._finish_when_complete()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _finish_when_complete(self) -> None:
        if self.written != self.artefact.size:
            return
        self._file.close()
        if self._hash.hexdigest() != self.artefact.sha256:
            self._part.unlink()
            raise self._corrupt()
        self._part.replace(self._target)

    def _corrupt(self) -> MegasamError:
        return MegasamError(
            "fetch_corrupt",
            f"The result file {self.artefact.path} did not arrive as the server announced it.",
            "Fetch the results again; if it happens twice, look at the server's disk.",
        )


def unreadable(path: Path, error: OSError) -> MegasamError:
    """The error for a file of the plate that the client cannot read."""
    return MegasamError(
        "plate_unreadable",
        f"{path} cannot be read: {error.strerror or error}.",
        "Check that it exists, its permissions and the disk.",
    )


def not_writable(folder: Path, error: OSError) -> MegasamError:
    """The error for results that cannot be written."""
    return MegasamError(
        "output_not_writable",
        f"Results cannot be written to {folder}: {error.strerror or error}.",
        "Check free space and permissions, or choose another folder.",
    )
