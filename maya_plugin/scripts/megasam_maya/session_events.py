"""What a :class:`megasam_maya.session.Session` tells the dialog."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import JobInfo, Progress, ServerStatus
from megasam_shared.settings import SolveSettings

from megasam_maya.job_history import JobRecord
from megasam_maya.plate import Plate
from megasam_maya.solve_quality import SolveQuality


@dataclass(frozen=True)
class SolveRequest:
    """A solve as the artist asks for it.

    Attributes:
        plate, masks: movie, folder, frame or pattern.
        name: what job and camera are called.
        folder: where the results go; it must not exist yet.
        values: kept with the job for whoever applies it (frame mapping, film back).
    """

    plate: Path
    masks: Path | None
    settings: SolveSettings
    name: str
    folder: Path
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConnectionState:
    """``connecting``, ``connected``, ``unreachable`` (nobody answered yet), ``lost`` (it answered
    before) or ``refused`` (it does not want us, or the address is wrong)."""

    state: Literal["connecting", "connected", "unreachable", "lost", "refused"]
    address: str
    error: MegasamError | None = None


@dataclass(frozen=True)
class StatusChanged:
    """Version, GPUs and queue of the server."""

    status: ServerStatus


@dataclass(frozen=True)
class JobsListed:
    """All jobs of the server that we may see, newest first."""

    jobs: list[JobInfo]


@dataclass(frozen=True)
class PlateInspected:
    """The answer to ``inspect_plate``: a plate, or why there is none."""

    path: Path
    plate: Plate | None
    error: MegasamError | None = None


@dataclass(frozen=True)
class Uploading:
    """Bytes of plate and masks that the server has, and all of them."""

    done: int
    total: int


@dataclass(frozen=True)
class JobMoved:
    """The job was submitted, started, or is found again."""

    job: JobInfo
    record: JobRecord | None


@dataclass(frozen=True)
class JobProgress:
    """Where the job is; previews of messages in between are kept."""

    progress: Progress


@dataclass(frozen=True)
class Cancelling:
    """The wish to cancel is taken; the server may need a moment."""


@dataclass(frozen=True)
class Fetching:
    """Bytes of the results that are here, and all of them."""

    done: int
    total: int


@dataclass(frozen=True)
class SolveEnded:
    """The end of what was asked for. Exactly one of ``folder`` (with results) and ``error``."""

    folder: Path | None
    error: MegasamError | None
    record: JobRecord | None


@dataclass(frozen=True)
class ResultRead:
    """The answer to ``read_result``: how good the solve in ``folder`` is, or why it is none."""

    folder: Path
    quality: SolveQuality | None
    error: MegasamError | None = None


@dataclass(frozen=True)
class ServerNotice:
    """What the server says unasked, such as that it is about to stop."""

    error: MegasamError


SessionEvent = (
    ConnectionState
    | StatusChanged
    | JobsListed
    | PlateInspected
    | Uploading
    | JobMoved
    | JobProgress
    | Cancelling
    | Fetching
    | SolveEnded
    | ResultRead
    | ServerNotice
)
