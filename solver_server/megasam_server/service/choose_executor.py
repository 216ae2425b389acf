"""Where the jobs of a server run: on this machine's devices, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.install_command import install_command

from megasam_server.service.devices import choose_devices
from megasam_server.service.executor import Executor
from megasam_server.service.local_workers import LocalWorkers
from megasam_server.service.options import ServerOptions
from megasam_server.service.state_index import INDEX_NAME, WORKERS_FOLDER
from megasam_server.service.worker_environment import worker_environment


def choose_executor(
    options: ServerOptions,
    state: Path,
    environment: Mapping[str, str],
    call_soon: Callable[[Callable[[], None]], None],
) -> Executor:
    """The executor that the options ask for.

    Args:
        state: the state folder, with its index.
        environment: variables that workers get beside those that they inherit.
        call_soon: runs a function in the server's thread; may be called from any thread.

    Raises:
        MegasamError: ``gpu_unknown``, ``ray_missing`` or ``ray_unreachable``.
    """
    if options.ray is None:
        return LocalWorkers(
            options.job_function,
            choose_devices(options.gpus),
            options.warm,
            worker_environment(options.worker_environment) | environment,
            state / WORKERS_FOLDER,
            call_soon,
        )
    try:
        from megasam_server.service.ray_workers import RayWorkers
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise MegasamError(
            "ray_missing",
            "Ray is not installed here, and the executor 'ray' needs it.",
            f"Install it on the server, and on every node likewise: {install_command('server', 'ray')}",
        ) from None
    return RayWorkers(
        options.ray,
        options.job_function,
        environment,
        options.worker_environment,
        state / INDEX_NAME,
        call_soon,
    )
