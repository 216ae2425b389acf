"""The executor of one machine: a worker process for each device, always one ready ahead.

Every job gets a fresh process, so nothing of one job (memory, GPU, globals, an exploited decoder)
reaches the next, which may be another client's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megasam_server.service.devices import Device
from megasam_server.service.executor import (
    MOST_FAILED_STARTS,
    ExecutorEvents,
    Task,
    pause_after,
)
from megasam_server.service.worker_notes import WorkerNotes
from megasam_server.service.worker_process import WorkerProcess, describe_exit

_log = logging.getLogger(__name__)


class _Slot:
    """One device and the process that is ready for it or works on it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.worker: WorkerProcess | None = None
        self.ready = False
        self.job: str | None = None
        # Killed workers that are not gone yet, with the job that each had.
        self.dying: dict[WorkerProcess, str] = {}
        self.failed_starts = 0
        self.restart_at: float | None = None

    @property
    def is_free(self) -> bool:
        # The next solve may need the memory that a killed one still holds.
        return self.ready and self.job is None and not self.dying


class LocalWorkers:
    """An :class:`megasam_server.service.executor.Executor` with child processes.

    Args:
        job_function: ``module:function`` that workers run.
        devices: one worker each.
        environment: variables of the workers, beside those that show each its device.
        notes: folder where the processes are written down, for the next server.
        call_soon: runs a function in the server's thread; may be called from any thread.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        job_function: str,
        devices: Sequence[Device],
        environment: Mapping[str, str],
        notes: Path,
        call_soon: Callable[[Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_function = job_function
        self._environment = environment
        self._notes = WorkerNotes(notes)
        self._call_soon = call_soon
        self._clock = clock
        self._slots = [_Slot(device) for device in devices]
        self._events: ExecutorEvents
        self._closing = False

    @property
    def title(self) -> str:
        return ", ".join(slot.device.title for slot in self._slots)

    def open(self, events: ExecutorEvents) -> None:
        self._events = events
        self._notes.end_leftovers()
        for slot in self._slots:
            self._start_worker(slot)

    def has_room(self) -> bool:
        return any(slot.is_free for slot in self._slots)

    def start(self, task: Task) -> str:
        slot = next(slot for slot in self._slots if slot.is_free)
        assert slot.worker is not None
        slot.job = task.job
        slot.worker.start_job(task.to_map())
        return f"{slot.device.title} in process {slot.worker.pid}"

    def stop(self, job: str) -> None:
        for slot in self._slots:
            if slot.job == job and slot.worker is not None:
                slot.dying[slot.worker], slot.job = job, None
                slot.worker.kill()
                self._start_worker(slot)

    def tick(self, now: float) -> None:
        for slot in self._slots:
            if slot.restart_at is not None and now >= slot.restart_at:
                self._start_worker(slot)

    def close(self) -> None:
        self._closing = True
        workers = [worker for slot in self._slots for worker in slot.dying]
        workers += [slot.worker for slot in self._slots if slot.worker is not None]
        for worker in workers:
            worker.kill()
        for worker in workers:
            if worker.join(timeout=5):
                self._notes.remove(worker.pid)

    def _start_worker(self, slot: _Slot) -> None:
        slot.restart_at = None
        slot.ready = False
        try:
            slot.worker = WorkerProcess(
                self._job_function,
                {**self._environment, **slot.device.environment},
                self._notes.mark,
                lambda w, m: self._call_soon(lambda: self._on_message(slot, w, m)),
                lambda w, c: self._call_soon(lambda: self._on_exit(slot, w, c)),
            )
            self._notes.add(slot.worker.pid)
        except OSError as error:
            slot.worker = None
            self._worker_did_not_start(slot, f"could not be started ({error})")

    def _on_message(self, slot: _Slot, worker: WorkerProcess, content: Any) -> None:
        if self._closing or worker is not slot.worker or not isinstance(content, dict):
            return
        if content.get("kind") == "ready":
            slot.ready = True
            slot.failed_starts = 0
            self._events.on_room()
        elif slot.job is not None:
            self._events.on_report(slot.job, content)

    def _on_exit(self, slot: _Slot, worker: WorkerProcess, code: int) -> None:
        if self._closing:
            return
        self._notes.remove(worker.pid)
        if worker in slot.dying:
            self._events.on_gone(slot.dying.pop(worker), describe_exit(code))
            self._events.on_room()
            return
        job, slot.job = slot.job, None
        was_ready, slot.ready, slot.worker = slot.ready, False, None
        _log.warning("worker process %d %s", worker.pid, describe_exit(code))
        if job is not None:
            self._events.on_gone(job, describe_exit(code))
        if was_ready:
            self._start_worker(slot)
        else:
            self._worker_did_not_start(slot, describe_exit(code))

    def _worker_did_not_start(self, slot: _Slot, why: str) -> None:
        _log.error("no worker for %s: it %s", slot.device.title, why)
        slot.failed_starts += 1
        slot.restart_at = self._clock() + pause_after(slot.failed_starts)
        if all(slot.failed_starts >= MOST_FAILED_STARTS for slot in self._slots):
            self._events.on_unable(why)
