"""Uploaded files by content: each is stored once, under its SHA-256, and only when it is whole.

A file on its way in grows as ``<sha256>.part``; when all bytes are there and the hash is right, it
is renamed. A cut leaves the part, and the next upload goes on at its end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import FileContent, Wanted

from megasam_server.service.byte_size import byte_size
from megasam_server.service.spare_room import disk_full, is_full

_OPEN_PARTS = 64
_REMEMBERED_OFFERS = 200_000
_SPARE_BYTES = 16 << 20
_PART = ".part"
# Fits the second cache of every processor of these years.
_CACHED_BYTES = 256 << 10


class BlobStore:
    """Content store in one folder. Safe to use from several threads.

    Args:
        folder: made when it is not there.
        admit: called before files come, to note that they are used; raises MegasamError when
            they are too much. None for a store without bounds.
    """

    def __init__(
        self, folder: Path, admit: Callable[[Iterable[FileContent]], None] | None = None
    ) -> None:
        self._folder = folder
        self._admit = admit
        folder.mkdir(parents=True, exist_ok=True)
        self._offered: OrderedDict[str, int] = OrderedDict()
        self._parts: OrderedDict[str, _Part] = OrderedDict()
        self._lock = threading.RLock()

    def path_of(self, content: FileContent) -> Path | None:
        """Where the whole file lies; None when it is not there."""
        path = self._whole_path(content.sha256)
        try:
            return path if path.stat().st_size == content.size else None
        except FileNotFoundError:
            return None

    def missing(self, files: Iterable[FileContent]) -> list[Wanted]:
        """The files that are not there, each with the offset to go on from.

        Raises:
            MegasamError: ``server_disk_full`` when they would not fit, or what ``admit`` says.
        """
        files = list(files)
        if self._admit is not None:
            self._admit(files)
        wanted, bytes_to_come = [], 0
        for content in files:
            if self.path_of(content) is not None:
                continue
            with self._lock:
                self._offered[content.sha256] = content.size
                self._offered.move_to_end(content.sha256)
                while len(self._offered) > _REMEMBERED_OFFERS:
                    self._offered.popitem(last=False)
            offset = self._resumable_bytes(content)
            wanted.append(Wanted(content.sha256, offset))
            bytes_to_come += content.size - offset
        free = shutil.disk_usage(self._folder).free
        if bytes_to_come and bytes_to_come + _SPARE_BYTES > free:
            raise disk_full(f"{byte_size(bytes_to_come)} are to come, {byte_size(free)} free")
        return wanted

    def write(self, sha256: str, offset: int, data: bytes) -> int:
        """Append a chunk to an offered file.

        Bytes that are there already are skipped; a chunk that would leave a hole is not taken.

        Returns:
            Bytes of the file that are safe now; all of them means that the hash was right.

        Raises:
            MegasamError: ``upload_not_offered``, ``upload_corrupt`` (wrong hash; what came is
                thrown away) or ``server_disk_full`` (the part is removed).
        """
        with self._lock:
            size = self._offered.get(sha256)
        if size is None:
            raise MegasamError(
                "upload_not_offered", "Bytes came for a file that was not offered before."
            )
        if self.path_of(FileContent(sha256, size)) is not None:
            return size
        try:
            with self._part(sha256) as part:
                new = data[max(0, part.received - offset) :] if offset <= part.received else b""
                if part.received + len(new) > size:
                    raise self._drop(part, _corrupt("it is longer than was announced"))
                part.append(new)
                if part.received == size:
                    self._finish(sha256, part)
                return part.received
        except (OSError, MegasamError) as error:
            # What else is on its way would begin a new part with a hole.
            with self._lock:
                self._offered.pop(sha256, None)
            if isinstance(error, OSError) and is_full(error):
                raise disk_full("the upload was stopped") from None
            raise

    def place(self, content: FileContent, target: Path) -> None:
        """Make the stored file appear at ``target`` (hard link where the disk can, else a copy).

        Raises:
            MegasamError: ``upload_missing`` or ``server_disk_full``.
        """
        source = self.path_of(content)
        if source is None:
            raise MegasamError(
                "upload_missing",
                f"The file {target.name} has not been uploaded.",
                "Upload all files of the plate before submitting it.",
            )
        try:
            os.link(source, target)
        except OSError:
            try:
                shutil.copyfile(source, target)
            except OSError as error:
                if is_full(error):
                    raise disk_full("the plate could not be copied") from None
                raise

    def files(self) -> Iterator[tuple[str, int, bool]]:
        """Hash, bytes so far, and whether it is whole, of every file that is there."""
        for path in self._folder.iterdir():
            if path.name.endswith(_PART):
                with contextlib.suppress(FileNotFoundError):
                    yield path.name.removesuffix(_PART), path.stat().st_size, False
            elif path.is_dir():
                for whole in path.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        yield whole.name, whole.stat().st_size, True

    def has(self, sha256: str) -> bool:
        """The whole file is there."""
        return self._whole_path(sha256).exists()

    def in_use(self, sha256: str) -> bool:
        """A job's folder has a link to the file."""
        try:
            return self._whole_path(sha256).stat().st_nlink > 1
        except FileNotFoundError:
            return False

    def remove(self, sha256: str) -> int:
        """Remove a file, whole or not; returns the bytes that this freed."""
        freed = 0
        for path in (self._whole_path(sha256), self._part_path(sha256)):
            with contextlib.suppress(FileNotFoundError):
                freed += path.stat().st_size
        with self._lock:
            part = self._parts.get(sha256)
        if part is not None:
            with part.lock:
                self._drop(part, None)
        self._whole_path(sha256).unlink(missing_ok=True)
        self._part_path(sha256).unlink(missing_ok=True)
        return freed

    def close(self) -> None:
        """Close open parts; they stay resumable."""
        with self._lock:
            while self._parts:
                self._parts.popitem()[1].close()

    def _whole_path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256

    def _part_path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}{_PART}"

    def _resumable_bytes(self, content: FileContent) -> int:
        if not self._part_path(content.sha256).exists():
            return 0
        with self._part(content.sha256) as part:
            if part.received >= content.size:
                self._drop(part, None)
                return 0
            return part.received

    @contextlib.contextmanager
    def _part(self, sha256: str) -> Iterator[_Part]:
        """The part of a file, made or opened again if need be, for one thread at a time.

        Hashing what an earlier server left of it holds up nobody but those who want this file.
        """
        while True:
            pushed_out = None
            with self._lock:
                part = self._parts.get(sha256)
                if part is None:
                    part = self._parts[sha256] = _Part(self._part_path(sha256))
                    if len(self._parts) > _OPEN_PARTS:
                        _, pushed_out = self._parts.popitem(last=False)
                self._parts.move_to_end(sha256)
            # Never while holding the other lock: threads that hold a part's take that one.
            if pushed_out is not None:
                with pushed_out.lock:
                    pushed_out.close()
            with part.lock:
                if part.closed:  # pushed out or finished just now
                    continue
                try:
                    part.open()
                    yield part
                except OSError:
                    self._drop(part, None)
                    raise
                return

    def _finish(self, sha256: str, part: _Part) -> None:
        if part.hash.hexdigest() != sha256:
            raise self._drop(part, _corrupt("its content is not what was announced"))
        target = self._whole_path(sha256)
        target.parent.mkdir(exist_ok=True)
        part.close()
        # A job gets the file as a hard link: nobody may write into it.
        if os.name == "posix":  # elsewhere a read-only file cannot be deleted either
            part.path.chmod(0o444)
        part.path.replace(target)
        self._forget(part)

    def _drop(self, part: _Part, error: MegasamError | None) -> MegasamError | None:
        part.close()
        with contextlib.suppress(OSError):
            part.path.unlink(missing_ok=True)
        self._forget(part)
        return error

    def _forget(self, part: _Part) -> None:
        with self._lock:
            if self._parts.get(part.sha256) is part:
                del self._parts[part.sha256]


class _Part:
    """A file that is not whole yet, with the hash of what is there.

    Attributes:
        lock: to be held by who uses it.
        closed: it will not be used again; a later chunk needs a new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = path.name.removesuffix(_PART)
        self.lock = threading.RLock()
        self.closed = False
        self.hash = hashlib.sha256()
        self.received = 0
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Open the file and hash what is there; does nothing the second time."""
        if self._file is not None:
            return
        # Unbuffered: what was acknowledged has left this process.
        self._file = self.path.open("a+b", buffering=0)
        self._file.seek(0)
        while data := self._file.read(1 << 20):
            self.hash.update(data)
            self.received += len(data)

    def append(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        for start in range(0, len(view), _CACHED_BYTES):
            # Hashing brings the bytes near to the processor: writing them takes a third of the time
            # then. When it fails, the part is thrown away with its hash.
            rest = view[start : start + _CACHED_BYTES]
            self.hash.update(rest)
            while rest:
                rest = rest[self._file.write(rest) :]
        self.received += len(data)

    def close(self) -> None:
        self.closed = True
        if self._file is not None:
            self._file.close()


def _corrupt(why: str) -> MegasamError:
    return MegasamError(
        "upload_corrupt",
        f"An uploaded file was thrown away: {why}.",
        "It may have changed while it was sent; upload it again.",
    )
