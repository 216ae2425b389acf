"""From the settings of a config file, in an administrator's units, to options of server and log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from megasam_shared.config_folder import config_folder
from megasam_shared.errors import MegasamError
from megasam_shared.keys import ALLOWED_CLIENTS, SERVER_KEY
from megasam_shared.server_keys import full_address

from megasam_server.media.picture_limits import PictureLimits
from megasam_server.service.config_file import ConfigValues
from megasam_server.service.options import (
    CurveOptions,
    RayOptions,
    ServerOptions,
    StorageLimits,
    UploadLimits,
    WarmOptions,
)
from megasam_server.service.server_log import LogOptions
from megasam_server.service.worker import SOLVER

_GB = 1e9
_DAY = 24 * 3600


def default_state() -> Path:
    """Where a server keeps jobs and uploads unless told otherwise."""
    return platformdirs.user_data_path("megasam", appauthor=False) / "server"


def state_folder(values: Mapping[str, Any]) -> Path:
    """The state folder of a server with these settings."""
    return Path(values["server.state"]) if values["server.state"] else default_state()


def server_options(config: ConfigValues, job_function: str = SOLVER) -> ServerOptions:
    """The options of a server with these settings.

    Args:
        job_function: ``module:function`` that solves.

    Raises:
        MegasamError: ``server_address_invalid`` or ``config_out_of_range``.
    """
    values = config.values
    keys = Path(values["security.keys"]) if values["security.keys"] else config_folder()
    gpus = values["server.gpus"]
    return ServerOptions(
        state=state_folder(values),
        bind=full_address(values["server.bind"]),
        curve=(
            CurveOptions(keys / SERVER_KEY, keys / ALLOWED_CLIENTS)
            if values["security.curve"]
            else None
        ),
        shared_jobs=values["security.shared_jobs"],
        media_roots=list(map(Path, values["media.roots"])),
        prefix_maps={
            client: {prefix: Path(folder) for prefix, folder in prefixes.items()}
            for client, prefixes in config.prefixes.items()
        },
        checkpoint_roots=list(map(Path, values["media.checkpoint_roots"])),
        pictures=PictureLimits(
            side=values["pictures.side"],
            pixels=values["pictures.pixels"],
            frame_bytes=values["pictures.frame_bytes"],
            frames=values["pictures.frames"],
        ),
        uploads=UploadLimits(
            files=values["uploads.files"],
            file_bytes=round(values["uploads.file_gb"] * _GB),
            submission_bytes=round(values["uploads.job_gb"] * _GB),
        ),
        storage=storage_limits(values),
        queue_limit=values["queue.limit"],
        queue_limit_per_client=values["queue.limit_per_client"] or None,
        max_priority=values["queue.max_priority"],
        gpus=None if gpus == "auto" else [name.strip() for name in gpus.split(",")],
        warm=WarmOptions(values["server.keep_warm_minutes"] * 60, values["server.warm_jobs"]),
        ray=_ray_options(values) if values["server.executor"] == "ray" else None,
        job_timeout=values["server.job_timeout_minutes"] * 60 or None,
        drain_timeout=values["server.drain_minutes"] * 60,
        metrics=values["metrics.bind"] or None,
        worker_environment=values["security.worker_environment"],
        job_function=job_function,
    )


def storage_limits(values: Mapping[str, Any]) -> StorageLimits:
    """How much may lie in the state folder, and how long. GB are a thousand million bytes."""
    return StorageLimits(
        ttl=values["storage.keep_days"] * _DAY or None,
        client_bytes=round(values["storage.client_quota_gb"] * _GB) or None,
        all_bytes=round(values["storage.limit_gb"] * _GB) or None,
        cache_bytes=round(values["storage.cache_gb"] * _GB),
    )


def log_options(values: Mapping[str, Any]) -> LogOptions:
    """How a server with these settings logs."""
    return LogOptions(
        file=Path(values["log.file"]) if values["log.file"] else None,
        level=values["log.level"],
        as_json=values["log.json"],
        rotate_bytes=round(values["log.rotate_mb"] * 1e6),
        rotations=values["log.rotations"],
    )


def _ray_options(values: Mapping[str, Any]) -> RayOptions:
    gpus = values["ray.gpus"]
    try:
        number = None if gpus == "auto" else float(gpus)
    except ValueError:
        number = -1.0
    if number is not None and not 0 <= number <= 64:
        raise MegasamError(
            "config_out_of_range",
            f"ray.gpus = {gpus!r} must be 'auto' or a number of GPUs in quotes.",
            "A job uses one GPU; '0.5' lets two jobs share one.",
        )
    return RayOptions(
        address=values["ray.address"],
        cpus=values["ray.cpus"],
        gpus=number,
        jobs=values["ray.jobs"] or None,
    )
