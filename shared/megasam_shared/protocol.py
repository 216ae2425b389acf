"""The messages between client and server, and what each field may be.

One ZeroMQ message holds one msgpack map: ``type`` and the fields of the class below. A message that
wants an answer carries a ``request`` number chosen by the sender; the answer carries the same one.
Number 0 marks what comes unasked (progress, state changes).

Client:  Hello, Offer, Chunk, Submit, Fetch, Cancel, ListJobs, ListCheckpoints, AskStatus, Attach,
         Heartbeat
Server:  Welcome, Need, ChunkTaken, JobChanged, Progress, Result, Piece, Jobs, Checkpoints,
         ServerStatus, Error, Heartbeat
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from megasam_shared.errors import MegasamError
from megasam_shared.wire import Bounds, Like, message

PROTOCOL_VERSION = 1
DEFAULT_PORT = 5599

CHUNK_BYTES = 1 << 20
MAX_FILES = 10_000
MAX_ARTEFACTS = 20_000
MAX_PREVIEW_BYTES = 64 << 10
MAX_RESULT_BYTES = 6 << 20

# Seconds. A client sends heartbeats and the server answers each; the client believes the server
# dead when a heartbeat stays unanswered that long, the server forgets a client after its silence.
HEARTBEAT_EVERY = 1.0
SERVER_SILENT_AFTER = 3.0
CLIENT_SILENT_AFTER = 15.0

# As in render farms: 0 to 100, more is earlier.
DEFAULT_PRIORITY = 50
MAX_PRIORITY = 100

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
FINAL_STATES = ("done", "failed", "cancelled")
CheckpointState = Literal["missing", "unchecked", "verified", "fits", "damaged"]

_Request = Annotated[int, Bounds(0, 2**53)]
_Name = Annotated[str, Bounds(0, 255)]
_Path = Annotated[str, Bounds(1, 4096)]
_Text = Annotated[str, Bounds(0, 8192)]
_Count = Annotated[int, Bounds(0, 2**53)]
_Sha256 = Annotated[str, Like("[0-9a-f]{64}")]
_JobId = Annotated[str, Like("[0-9a-f]{32}")]
_Priority = Annotated[int, Bounds(0, MAX_PRIORITY)]
_Data = Annotated[bytes, Bounds(0, CHUNK_BYTES)]


@dataclass(frozen=True)
class FileContent:
    """A file by what is in it: hash and length in bytes."""

    sha256: _Sha256
    size: _Count


@dataclass(frozen=True)
class MediaFile:
    """An uploaded file and the name it has at the client."""

    name: Annotated[str, Bounds(1, 255)]
    sha256: _Sha256
    size: _Count


@dataclass(frozen=True)
class Media:
    """A plate or mask: uploaded ``files`` (one movie, or the frames), or a ``path`` that lies
    below a media root of the server. Exactly one of the two is given."""

    files: Annotated[list[MediaFile], Bounds(0, MAX_FILES)] = field(default_factory=list)
    path: Annotated[str, Bounds(0, 4096)] = ""


@dataclass(frozen=True)
class Artefact:
    """A result file: path relative to the result folder (with ``/``), bytes, hash."""

    path: _Path
    size: _Count
    sha256: _Sha256


@dataclass(frozen=True)
class Wanted:
    """A file that the server wants, from ``offset`` on: what lies before is there already."""

    sha256: _Sha256
    offset: _Count


@dataclass(frozen=True)
class ErrorInfo:
    """A :class:`MegasamError` inside another message."""

    code: _Name
    message: _Text
    hint: _Text = ""

    @classmethod
    def of(cls, error: MegasamError) -> ErrorInfo:
        return cls(error.code[:255], error.message[:8192], error.hint[:8192])

    def to_error(self) -> MegasamError:
        return MegasamError(self.code, self.message, self.hint)


@dataclass(frozen=True)
class JobInfo:
    """A job as the list shows it.

    Attributes:
        created, started, finished: seconds since the epoch; None when that has not happened.
        position: jobs before this one in the queue, while ``queued``.
        error: why it failed.
        priority: 0-100, more is earlier.
        attempts: workers that were given the job; 2 when the first one died.
    """

    job: _JobId
    name: _Name
    state: JobState
    created: float
    started: float | None = None
    finished: float | None = None
    position: _Count = 0
    error: ErrorInfo | None = None
    priority: _Priority = DEFAULT_PRIORITY
    attempts: _Count = 0


@dataclass(frozen=True)
class CheckpointInfo:
    """Weights of one network, as a client shows them.

    Attributes:
        name: identifier. title: for people. purpose: what it is for, in a few words.
        file: what the file is called in the server's folder of checkpoints.
        state: ``missing``; ``unchecked``: there, and not looked into; ``verified``: the published
            file; ``fits``: no hash is published, names and shapes are right; ``damaged``.
        reason: why it is damaged; empty otherwise.
        licence: SPDX identifier. licence_source: page that states it.
        commercial_use: the licence allows it.
        source: page to get the file from.
        size: bytes; None where it is not known.
        built_in: the server's package brings it: there is nothing to get.
    """

    name: _Name
    title: _Name
    purpose: _Name
    file: _Name
    state: CheckpointState
    licence: _Name
    licence_source: _Text
    commercial_use: bool
    source: _Text
    size: _Count | None = None
    reason: _Text = ""
    built_in: bool = False


@dataclass(frozen=True)
class RunningJob:
    """A job that a worker has.

    Attributes:
        where: the worker.
        stage, done, total, fraction, elapsed, eta: as in Progress.
    """

    job: _JobId
    name: _Name
    where: _Name
    stage: _Name
    done: float
    total: float
    fraction: Annotated[float, Bounds(0, 1)]
    elapsed: float
    eta: float | None = None


@dataclass(frozen=True)
class GpuState:
    """A GPU of the server's machine: memory in MiB, and the share of time it computes, per cent;
    None where the driver does not say."""

    number: _Name
    name: _Name
    used: _Count | None
    total: _Count | None
    busy: Annotated[int, Bounds(0, 100)] | None


@dataclass(frozen=True)
class Counted:
    """What a server has counted since it started; ``label`` tells apart what one name counts."""

    name: _Name
    label: _Name
    count: _Count


# --- both ways


@message
@dataclass(frozen=True)
class Heartbeat:
    """I am alive."""


@message
@dataclass(frozen=True)
class Error:
    """An answer that is none: see :class:`MegasamError`."""

    request: _Request
    code: _Name
    message: _Text
    hint: _Text = ""

    @classmethod
    def of(cls, request: int, error: MegasamError) -> Error:
        info = ErrorInfo.of(error)
        return cls(request, info.code, info.message, info.hint)

    def to_error(self) -> MegasamError:
        return MegasamError(self.code, self.message, self.hint)


# --- client to server


@message
@dataclass(frozen=True)
class Hello:
    """First message of a client: protocol version, version of its software, what it is."""

    protocol: int
    version: _Name
    client: _Name = ""


@message
@dataclass(frozen=True)
class Offer:
    """I have these files; which do you need? Answered by Need."""

    request: _Request
    files: Annotated[list[FileContent], Bounds(0, MAX_FILES)]


@message
@dataclass(frozen=True)
class Chunk:
    """Bytes of an offered file. Answered by ChunkTaken."""

    request: _Request
    sha256: _Sha256
    offset: _Count
    data: _Data


@message
@dataclass(frozen=True)
class Submit:
    """Solve this. Answered by JobChanged; progress follows.

    ``submission`` is a random number of the client: the same one again (after a lost answer)
    gives the same job, never a second one.
    """

    request: _Request
    submission: _JobId
    name: _Name
    plate: Media
    masks: Media | None
    settings: dict
    priority: _Priority = DEFAULT_PRIORITY


@message
@dataclass(frozen=True)
class Cancel:
    """Stop the job. Answered by JobChanged."""

    request: _Request
    job: _JobId


@message
@dataclass(frozen=True)
class ListJobs:
    """Answered by Jobs."""

    request: _Request


@message
@dataclass(frozen=True)
class ListCheckpoints:
    """Which weights are there, and under which licences? Answered by Checkpoints."""

    request: _Request


@message
@dataclass(frozen=True)
class AskStatus:
    """How is the server? Answered by ServerStatus."""

    request: _Request


@message
@dataclass(frozen=True)
class Attach:
    """Send me what happens to this job. Answered by JobChanged, or by Result when it is over."""

    request: _Request
    job: _JobId


@message
@dataclass(frozen=True)
class Fetch:
    """Send me bytes of a result file. Answered by Piece."""

    request: _Request
    job: _JobId
    path: _Path
    offset: _Count
    length: Annotated[int, Bounds(1, CHUNK_BYTES)]


# --- server to client


@message
@dataclass(frozen=True)
class Welcome:
    """Answer to Hello. ``server`` is a random number of this run of the server."""

    protocol: int
    version: _Name
    server: _JobId


@message
@dataclass(frozen=True)
class Need:
    """The offered files that are not there, in the order of the offer."""

    request: _Request
    files: Annotated[list[Wanted], Bounds(0, MAX_FILES)]


@message
@dataclass(frozen=True)
class ChunkTaken:
    """``received`` bytes of the file are safe; when that is all of them, the hash was right."""

    request: _Request
    sha256: _Sha256
    received: _Count


@message
@dataclass(frozen=True)
class JobChanged:
    """Where the job is now."""

    request: _Request
    job: JobInfo


@message
@dataclass(frozen=True)
class Jobs:
    """All jobs that the server remembers, newest first."""

    request: _Request
    jobs: Annotated[list[JobInfo], Bounds(0, MAX_FILES)]


@message
@dataclass(frozen=True)
class Checkpoints:
    """Every checkpoint that the server knows, missing ones too."""

    request: _Request
    checkpoints: Annotated[list[CheckpointInfo], Bounds(0, 1000)]


@message
@dataclass(frozen=True)
class ServerStatus:
    """How the server is.

    Attributes:
        version: of its software. uptime: seconds.
        draining: it takes no jobs, because it is about to stop.
        workers: where jobs run, for people.
        gpus: of its machine; of those of a cluster it knows nothing.
        queued, running: jobs of all clients.
        jobs: the running ones that the asking client may see.
    """

    request: _Request
    version: _Name
    uptime: float
    draining: bool
    workers: _Name
    gpus: Annotated[list[GpuState], Bounds(0, 256)]
    queued: _Count
    running: _Count
    jobs: Annotated[list[RunningJob], Bounds(0, MAX_FILES)]
    counters: Annotated[list[Counted], Bounds(0, 10_000)]


@message
@dataclass(frozen=True)
class Progress:
    """Where a running job is; comes at least once a second.

    Attributes:
        stage: a key of :mod:`megasam_shared.stages`; empty before the first stage.
        done, total: units of the stage (frames, iterations).
        fraction: of the whole solve, 0-1, never decreasing.
        skipped: stages that do not run for this job.
        elapsed: seconds since the job started.
        eta: estimated seconds to the end; None while there is nothing to judge by.
        preview: small JPEG of what the stage sees, empty when there is no new one.
    """

    job: _JobId
    stage: _Name
    done: float
    total: float
    note: _Text
    fraction: Annotated[float, Bounds(0, 1)]
    skipped: Annotated[list[_Name], Bounds(0, 64)]
    elapsed: float
    eta: float | None = None
    preview: Annotated[bytes, Bounds(0, MAX_PREVIEW_BYTES)] = b""
    preview_frame: int = 0


@message
@dataclass(frozen=True)
class Result:
    """The end of a job.

    Attributes:
        result: what the solve returned (extrinsics, quality, status, warnings, timings, usable);
            empty unless ``state`` is ``done``. Too large a map comes without ``extrinsics``:
            they are in the artefact ``camera_extrinsics.json``.
        artefacts: the files of the result folder.
        error: why there is no result.
    """

    request: _Request
    job: _JobId
    state: Literal["done", "failed", "cancelled"]
    result: dict
    artefacts: Annotated[list[Artefact], Bounds(0, MAX_ARTEFACTS)]
    error: ErrorInfo | None = None


@message
@dataclass(frozen=True)
class Piece:
    """Bytes of a result file; fewer than asked for only at its end."""

    request: _Request
    offset: _Count
    data: _Data
