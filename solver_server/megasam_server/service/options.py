"""Everything that can be set about a server, in one place: command line and config file fill it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megasam_shared.protocol import DEFAULT_PORT, DEFAULT_PRIORITY, MAX_FILES

from megasam_server.media.picture_limits import PictureLimits
from megasam_server.service.worker import SOLVER

EVERY_CLIENT = "*"


@dataclass(frozen=True)
class CurveOptions:
    """How clients are told apart when other machines reach the server.

    Attributes:
        server_key: file with the server's own key pair (``megasam keys new --server``).
        allowed_clients: file with the names and public keys of the clients (``megasam keys
            allow``). It is read again when it changes.
    """

    server_key: Path
    allowed_clients: Path


@dataclass(frozen=True)
class UploadLimits:
    """What clients may bring.

    Attributes:
        files: most files of one submission, plate and masks together.
        file_bytes: largest single file.
        submission_bytes: most bytes of one submission, plate and masks together.
    """

    files: int = MAX_FILES
    file_bytes: int = 1 << 40
    submission_bytes: int = 1 << 40


@dataclass(frozen=True)
class StorageLimits:
    """How much may lie there, and how long.

    Attributes:
        ttl: seconds that uploads and results stay after their last use; None for ever.
        client_bytes: uploads and results of one client; None for no limit.
        all_bytes: uploads, results and kept stage outputs of all; None for no limit.
        cache_bytes: kept stage outputs.
    """

    ttl: float | None = None
    client_bytes: int | None = None
    all_bytes: int | None = None
    cache_bytes: int = 50 << 30


@dataclass(frozen=True)
class RayOptions:
    """A Ray cluster to solve on.

    Attributes:
        address: of its head node; ``auto`` for the cluster that this machine is in.
        cpus: cores that a job takes.
        gpus: GPUs that a job takes; None for one where the cluster has any.
        jobs: most that run at once; None for as many as there is room for.
    """

    address: str = "auto"
    cpus: float = 2
    gpus: float | None = None
    jobs: int | None = None


@dataclass(frozen=True)
class WarmOptions:
    """How long a worker process that holds networks stays for the next job of the same client.

    Attributes:
        seconds: that it waits for one; 0: every job has a new process.
        jobs: most that it solves.
    """

    seconds: float = 300.0
    jobs: int = 20


@dataclass(frozen=True)
class ServerOptions:
    """How a server runs.

    Attributes:
        state: folder for jobs and uploads.
        bind: ``tcp://HOST:PORT``; port 0 takes a free one. Anything but loopback needs ``curve``.
        curve: encryption and allow-list; None for a server on loopback that trusts the machine.
        shared_jobs: every client sees, cancels and fetches the jobs of all, and need not send
            again what another has sent. Otherwise a client sees its own only.
        media_roots: folders whose plates clients may name by path.
        prefix_maps: how paths of clients are read here: client name, or ``*`` for every client,
            to {prefix at the client: folder here}, e.g. ``{"*": {"Z:/shows": "/mnt/shows"}}``.
        checkpoint_roots: folders below which clients may choose checkpoints (``model_path``).
        any_checkpoints: they may choose any folder: for a server that only its own user reaches.
        pictures, uploads, storage: limits.
        queue_limit: most jobs that wait, over all clients.
        queue_limit_per_client: most jobs of one client that wait; None for no limit of its own.
        max_priority: highest that clients may give a job; one above the default goes before the
            jobs of everybody else.
        gpus: devices to solve on, one worker each; None takes every GPU that is there, else the
            CPU.
        warm: whether workers stay when their job has ended; on a cluster they never do.
        ray: solve on a cluster instead of this machine's devices; ``state`` is then a folder that
            every node has under that path.
        job_timeout: seconds that one run of a job may take; None for ever.
        drain_timeout: seconds that a server that is to stop waits for the ends of stages.
        metrics: ``HOST:PORT`` on loopback where Prometheus reads numbers; None for nowhere.
        worker_environment: further variables that workers inherit (see
            :mod:`megasam_server.service.worker_environment`).
        job_function: ``module:function`` that solves.
    """

    state: Path
    bind: str = f"tcp://127.0.0.1:{DEFAULT_PORT}"
    curve: CurveOptions | None = None
    shared_jobs: bool = False
    media_roots: Sequence[Path] = ()
    prefix_maps: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    checkpoint_roots: Sequence[Path] = ()
    any_checkpoints: bool = False
    pictures: PictureLimits = PictureLimits()
    uploads: UploadLimits = UploadLimits()
    storage: StorageLimits = StorageLimits()
    queue_limit: int = 100
    queue_limit_per_client: int | None = None
    max_priority: int = DEFAULT_PRIORITY
    gpus: Sequence[str] | None = None
    warm: WarmOptions = WarmOptions()
    ray: RayOptions | None = None
    job_timeout: float | None = None
    drain_timeout: float = 1800.0
    metrics: str | None = None
    worker_environment: Sequence[str] = ()
    job_function: str = SOLVER
