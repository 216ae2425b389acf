"""The server's log: one line per event with the job's id in it, for people or as JSON.

Lines are written by a thread of their own, so that nobody waits for a disk or a slow terminal.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import logging.handlers
import queue
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megasam_shared.errors import MegasamError

_NO_JOB = "-"
# A message may hold what a client or a file chose to be called: no forged lines, no terminal codes.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
# What waits for a disk that hangs; more is lost, for memory is not the place for it.
_MOST_WAITING = 10_000


@dataclass(frozen=True)
class LogOptions:
    """How a server logs.

    Attributes:
        file: None for standard error.
        level: of :mod:`logging`, in lower case.
        as_json: one JSON object per line.
        rotate_bytes: size at which the file is put aside; rotations: how many are kept.
    """

    file: Path | None = None
    level: str = "info"
    as_json: bool = False
    rotate_bytes: int = 20_000_000
    rotations: int = 5


class JobLog(logging.LoggerAdapter):
    """A logger whose lines belong to a job."""

    def __init__(self, logger: logging.Logger, job: str) -> None:
        super().__init__(logger, {"job": job})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple:
        return msg, {**kwargs, "extra": self.extra}


def start_log(options: LogOptions) -> Callable[[], None]:
    """Log as the options say from now on; returns what ends that and writes what waits.

    Raises:
        MegasamError: ``log_not_writable``.
    """
    handler = _handler(options)
    handler.setFormatter(JsonLines() if options.as_json else HumanLines())
    waiting: queue.Queue = queue.Queue(_MOST_WAITING)
    listener = logging.handlers.QueueListener(waiting, handler)
    root = logging.getLogger()
    before, level_before = root.handlers[:], root.level
    ours = logging.getLogger("megasam_server")
    ours_before = ours.level
    root.handlers[:] = [_Waiting(waiting)]
    # Libraries speak at warning and above only; their details are for their authors.
    root.setLevel(max(logging.WARNING, getattr(logging, options.level.upper())))
    ours.setLevel(options.level.upper())
    listener.start()

    def stop() -> None:
        root.handlers[:] = before
        root.setLevel(level_before)
        ours.setLevel(ours_before)
        listener.stop()
        handler.close()

    return stop


class HumanLines(logging.Formatter):
    """``2026-01-31 12:00:00,123 INFO 3f2a... runner: starts on GPU 0``; ``-`` where no job is."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        name = record.name.removeprefix("megasam_server.").removeprefix("service.")
        line = (
            f"{time},{int(record.msecs):03d} {record.levelname} {_job_of(record)}"
            f" {name}: {record.getMessage().translate(_CONTROL)}"
        )
        return f"{line}\n{record.exc_text}" if record.exc_text else line


class JsonLines(logging.Formatter):
    """``time`` (UTC), ``level``, ``logger``, ``job`` (null where no job is), ``message``, and
    ``exception`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        job = _job_of(record)
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "job": None if job == _NO_JOB else job,
            "message": record.getMessage(),
        }
        if record.exc_text:
            fields["exception"] = record.exc_text
        return json.dumps(fields, ensure_ascii=False)


class _Waiting(logging.handlers.QueueHandler):
    """Puts records into a queue with everything that can be lost on the way made text."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record = copy.copy(record)
        record.msg, record.args = record.getMessage(), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


def _handler(options: LogOptions) -> logging.Handler:
    if options.file is None:
        return logging.StreamHandler(sys.stderr)
    try:
        options.file.parent.mkdir(parents=True, exist_ok=True)
        return logging.handlers.RotatingFileHandler(
            options.file,
            maxBytes=options.rotate_bytes,
            backupCount=options.rotations,
            encoding="utf-8",
        )
    except OSError as error:
        raise MegasamError(
            "log_not_writable",
            f"The log {options.file} cannot be written: {error.strerror}.",
            "Choose another file (log.file in the config file, --log-file).",
        ) from None


def _job_of(record: logging.LogRecord) -> str:
    return getattr(record, "job", None) or _NO_JOB
