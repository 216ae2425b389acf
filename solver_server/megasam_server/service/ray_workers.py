"""The executor of a Ray cluster: a worker process on whichever node has room, always one ahead.

Beside the running jobs, one worker waits for the next: it holds the room of one job, or asks an
autoscaler for it. Nothing else of the cluster is taken. Nodes read and write the state folder, which
lies on storage that all of them have under one path.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from megasam_shared.errors import MegasamError
from ray.exceptions import RayError

from megasam_server.service.executor import (
    MOST_FAILED_STARTS,
    ExecutorEvents,
    Task,
    pause_after,
)
from megasam_server.service.options import RayOptions
from megasam_server.service.ray_node import GONE, UNABLE, NodeWorker

_log = logging.getLogger(__name__)

_STOP_TIMEOUT = 10.0
_CONNECT_TIMEOUT = 5.0
# reports, solve and stop, each of which may wait.
_ACTOR_THREADS = 3


class RayWorkers:
    """An :class:`megasam_server.service.executor.Executor` with actors of a Ray cluster.

    Args:
        options: which cluster, and what a job takes of it.
        job_function: ``module:function`` that workers run.
        environment: variables of the workers, beside those of their nodes.
        further: names of more variables that they get from their nodes.
        sign: a file of the state folder; a node that does not see it cannot solve.
        call_soon: runs a function in the server's thread; may be called from any thread.
        clock: monotonic seconds.

    Raises:
        MegasamError: ``ray_unreachable``.
    """

    def __init__(
        self,
        options: RayOptions,
        job_function: str,
        environment: Mapping[str, str],
        further: Sequence[str],
        sign: Path,
        call_soon: Callable[[Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._job_function = job_function
        self._environment = dict(environment)
        self._further = list(further)
        self._sign = sign
        self._call_soon = call_soon
        self._clock = clock
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._restart_at = 0.0
        self._closing = False
        self._events: ExecutorEvents
        _connect(options.address)
        self._gpus = _gpus_of_a_job(options)

    @property
    def title(self) -> str:
        takes = f"{self._options.cpus:g} cores"
        if self._gpus:
            takes = f"{self._gpus:g} GPU, {takes}"
        return f"the Ray cluster {ray.get_runtime_context().gcs_address} ({takes} for each job)"

    def open(self, events: ExecutorEvents) -> None:
        self._events = events
        self._start_spare()

    def has_room(self) -> bool:
        return any(worker.is_free for worker in self._workers)

    def start(self, task: Task) -> str:
        worker = next(worker for worker in self._workers if worker.is_free)
        worker.job = task.job
        worker.solve(task)
        self._start_spare()
        return worker.where

    def stop(self, job: str) -> None:
        for worker in self._workers:
            if worker.job == job and worker.stop_until is None:
                worker.stop_until = self._clock() + _STOP_TIMEOUT
                worker.stop()

    def drain(self) -> None:
        """The spare worker holds no networks; it goes when the server does."""

    def tick(self, now: float) -> None:
        for worker in self._workers:
            if worker.stop_until is not None and now > worker.stop_until:
                # Its actor does not do what it is told; when that is gone, the worker goes too.
                worker.stop_until = now + _STOP_TIMEOUT
                worker.kill()
        self._start_spare()

    def close(self) -> None:
        self._closing = True
        for worker in self._workers:
            worker.stop()
        deadline = self._clock() + _STOP_TIMEOUT / 2
        for worker in self._workers:
            if not worker.join(max(0.0, deadline - self._clock())):
                worker.kill()
        for worker in self._workers:
            worker.join(_STOP_TIMEOUT / 2)
        ray.shutdown()

    def _start_spare(self) -> None:
        spare = any(worker.job is None for worker in self._workers)
        most = self._options.jobs
        full = most is not None and len(self._workers) >= most
        if self._closing or spare or full or self._clock() < self._restart_at:
            return
        self._workers.append(_Worker(self._new_actor, self._hear))

    def _new_actor(self) -> Any:
        """Called in the worker's thread: Ray may let it wait."""
        environment = dict(self._environment)
        if not self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = "-1"
        actor_class = ray.remote(_Actor).options(
            num_cpus=self._options.cpus,
            num_gpus=self._gpus,
            max_concurrency=_ACTOR_THREADS,
            max_restarts=0,
        )
        return actor_class.remote(self._job_function, environment, self._further, str(self._sign))

    def _hear(self, worker: _Worker, said: dict) -> None:
        """From the worker's thread."""
        self._call_soon(lambda: self._on_said(worker, said))

    def _on_said(self, worker: _Worker, said: dict) -> None:
        if self._closing:
            return
        kind = said.get("kind")
        if kind == "ready":
            worker.where = said["where"]
            self._failed_starts = 0
            self._events.on_room()
        elif kind in (GONE, UNABLE):
            self._on_gone(worker, said.get("how") or said.get("why") or "")
        elif worker.job is not None and worker.stop_until is None:
            self._events.on_report(worker.job, said)

    def _on_gone(self, worker: _Worker, how: str) -> None:
        self._workers.remove(worker)
        if worker.stop_until is None:
            _log.warning("a worker on %s %s", worker.where or "the cluster", how)
        if worker.job is not None:
            self._events.on_gone(worker.job, how)
        elif not worker.where:
            self._failed_starts += 1
            self._restart_at = self._clock() + pause_after(self._failed_starts)
            if self._failed_starts >= MOST_FAILED_STARTS:
                self._events.on_unable(how)
        self._start_spare()
        self._events.on_room()


class _Actor(NodeWorker):
    """A :class:`NodeWorker` that asks Ray where it is."""

    def __init__(self, job_function: str, environment: dict, further: list, sign: str) -> None:
        node = ray.get_runtime_context().get_node_id()[:8]
        super().__init__(job_function, environment, further, node, sign)


class _Worker:
    """An actor and the thread that listens to it. Everything but the thread is the server's.

    Args:
        new_actor: makes it.
        hear: called in the thread with each report; the last is ``gone`` or ``unable``.
    """

    def __init__(self, new_actor: Callable[[], Any], hear: Callable[[_Worker, dict], None]) -> None:
        self.job: str | None = None
        self.where = ""
        self.stop_until: float | None = None
        self._actor: Any = None
        self._ended = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._listen, args=(new_actor, hear), name="ray-worker", daemon=True
        )
        self._thread.start()

    @property
    def is_free(self) -> bool:
        return bool(self.where) and self.job is None and self.stop_until is None

    def solve(self, task: Task) -> None:
        self._actor.solve.remote(task.to_map())

    def stop(self) -> None:
        """End the worker; one that is not there yet never will be."""
        if self.where:
            self._actor.stop.remote()
        else:
            self.kill()

    def kill(self) -> None:
        with self._lock:
            self._ended = True
            if self._actor is not None:
                with contextlib.suppress(RayError, ValueError):
                    ray.kill(self._actor)

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended; False when it has not."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _listen(self, new_actor: Callable[[], Any], hear: Callable[[_Worker, dict], None]) -> None:
        last: dict = {}
        try:
            actor = new_actor()
            with self._lock:
                self._actor = actor
                ended = self._ended
            if ended:
                self.kill()
            for reference in actor.reports.options(num_returns="streaming").remote():
                last = ray.get(reference)
                if last.get("kind") not in (GONE, UNABLE):
                    hear(self, last)
        except Exception as error:  # whatever Ray raises, the attempt has ended
            _log.debug("an actor is gone", exc_info=error)
            reason = str(error).strip().splitlines()
            last = {
                "kind": GONE,
                "how": f"was lost with its node or its Ray actor ({type(error).__name__}"
                f"{': ' + reason[0][:200] if reason else ''})",
            }
        finally:
            # Frees what it held of the cluster.
            self.kill()
            hear(self, last)


def _connect(address: str) -> None:
    try:
        # Ray itself tries for minutes, and then ends the process.
        host, colon, port = address.rpartition(":")
        if colon and port.isdecimal() and "://" not in address:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT).close()
        ray.init(
            address=address,
            namespace="megasam",
            logging_level=logging.WARNING,
            log_to_driver=False,
            configure_logging=False,
        )
    except (OSError, OverflowError, RuntimeError, ValueError, RayError) as error:
        reason = str(error).strip().splitlines()
        raise MegasamError(
            "ray_unreachable",
            f"There is no Ray cluster at {address!r}: {reason[0][:300] if reason else error}",
            "Start one with 'ray start --head' there, and run the server on one of its machines;"
            " ray.address in the config file names it.",
        ) from None


def _gpus_of_a_job(options: RayOptions) -> float:
    """How many GPUs each job takes."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = options.gpus
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    fits = any(node.get("CPU", 0) >= options.cpus and node.get("GPU", 0) >= gpus for node in nodes)
    if not fits:
        # An autoscaler may bring one; without it, jobs would wait for ever, which must be seen.
        _log.warning(
            "no node of the Ray cluster has %g cores and %g GPUs now: jobs wait for one",
            *(options.cpus, gpus),
        )
    return gpus
