"""Uploaded files by content: each is stored once, under its SHA-256, and only when it is whole.

A file on its way in grows as ``<sha256>.part``; when all bytes are there and the hash is right, it
is renamed. A cut leaves the part, and the next upload goes on at its end.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import FileContent, Wanted

_OPEN_PARTS = 64
_REMEMBERED_OFFERS = 200_000
_SPARE_BYTES = 16 << 20


class BlobStore:
    """Content store in one folder. Safe to use from several threads.

    Args:
        folder: made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._offered: OrderedDict[str, int] = OrderedDict()
        self._parts: OrderedDict[str, _Part] = OrderedDict()
        self._lock = threading.RLock()

    def path_of(self, content: FileContent) -> Path | None:
        """Where the whole file lies; None when it is not there."""
        path = self._folder / content.sha256[:2] / content.sha256
        try:
            return path if path.stat().st_size == content.size else None
        except FileNotFoundError:
            return None

    def missing(self, files: Iterable[FileContent]) -> list[Wanted]:
        """The files that are not there, each with the offset to go on from.

        Raises:
            MegasamError: ``server_disk_full`` when they would not fit.
        """
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
            raise disk_full(f"{bytes_to_come / 1e6:.0f} MB are to come, {free / 1e6:.0f} MB free")
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
                part = self._open_part(sha256)
                new = data[max(0, part.received - offset) :] if offset <= part.received else b""
                if part.received + len(new) > size:
                    raise self._drop(sha256, _corrupt("it is longer than was announced"))
                part.append(new)
                if part.received == size:
                    self._finish(sha256, part)
                    return size
                return part.received
            except OSError as error:
                self._drop(sha256, None)
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
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
                if error.errno == errno.ENOSPC:
                    raise disk_full("the plate could not be copied") from None
                raise

    def close(self) -> None:
        """Close open parts; they stay resumable."""
        with self._lock:
            while self._parts:
                self._parts.popitem()[1].close()

    def _part_path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.part"

    def _resumable_bytes(self, content: FileContent) -> int:
        path = self._part_path(content.sha256)
        with self._lock:
            part = self._parts.get(content.sha256)
            if part is not None:
                return part.received
        if not path.exists():
            return 0
        # Hash what is there now, outside of the thread that takes chunks.
        opened = _Part(path)
        with self._lock:
            if content.sha256 in self._parts:
                opened.close()
            elif opened.received >= content.size:
                opened.close()
                path.unlink()
                return 0
            else:
                self._remember_part(content.sha256, opened)
            return self._parts[content.sha256].received

    def _open_part(self, sha256: str) -> _Part:
        part = self._parts.get(sha256)
        if part is None:
            part = _Part(self._part_path(sha256))
            self._remember_part(sha256, part)
        self._parts.move_to_end(sha256)
        return part

    def _remember_part(self, sha256: str, part: _Part) -> None:
        self._parts[sha256] = part
        while len(self._parts) > _OPEN_PARTS:
            self._parts.popitem(last=False)[1].close()

    def _finish(self, sha256: str, part: _Part) -> None:
        if part.hash.hexdigest() != sha256:
            raise self._drop(sha256, _corrupt("its content is not what was announced"))
        del self._parts[sha256]
        part.close()
        target = self._folder / sha256[:2] / sha256
        target.parent.mkdir(exist_ok=True)
        # A job gets the file as a hard link: nobody may write into it.
        if os.name == "posix":  # elsewhere a read-only file cannot be deleted either
            part.path.chmod(0o444)
        part.path.replace(target)

    def _drop(self, sha256: str, error: MegasamError | None) -> MegasamError | None:
        part = self._parts.pop(sha256, None)
        if part is not None:
            part.close()
        with contextlib.suppress(OSError):
            self._part_path(sha256).unlink(missing_ok=True)
        return error


class _Part:
    """A file that is not whole yet, with the hash of what is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hash = hashlib.sha256()
        self.received = 0
        # Unbuffered: what was acknowledged has left this process.
        self._file: BinaryIO = path.open("a+b", buffering=0)
        self._file.seek(0)
        while data := self._file.read(1 << 20):
            self.hash.update(data)
            self.received += len(data)

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.hash.update(data)
        self.received += len(data)

    def close(self) -> None:
        self._file.close()


def disk_full(what: str) -> MegasamError:
    """The error for a server without room."""
    return MegasamError(
        "server_disk_full",
        f"The disk of the solver server is full: {what}.",
        "Free space in its state folder, then submit again.",
    )


def _corrupt(why: str) -> MegasamError:
    return MegasamError(
        "upload_corrupt",
        f"An uploaded file was thrown away: {why}.",
        "It may have changed while it was sent; upload it again.",
    )
