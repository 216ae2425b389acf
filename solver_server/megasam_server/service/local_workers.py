"""The executor of one machine: a worker process for each device, always one ready ahead.

A job gets a fresh process, so nothing of one job (memory, GPU, globals, an exploited decoder)
reaches the next, which may be another client's. The exception is a process that has networks loaded
and that its last job did no harm: it stays for a while and takes the same client's next job.
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
from megasam_server.service.options import WarmOptions
from megasam_server.service.worker_notes import WorkerNotes
from megasam_server.service.worker_process import WorkerProcess, describe_exit

_log = logging.getLogger(__name__)

# A worker that is to go on cleans up in less than a second.
_CLEAN_WITHIN = 20.0


class _Slot:
    """One device and the process that is ready for it or works on it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.worker: WorkerProcess | None = None
        self.ready = False
        self.job: str | None = None
        # Whose job the worker has or had last, and how many it was given.
        self.owner = ""
        self.given = 0
        # It has said that it can take another job when it has cleaned up after its last one.
        self.goes_on = False
        self.cleans_up_after: str | None = None
        self.cleans_until = 0.0
        self.warm_until: float | None = None
        # Killed workers that are not gone yet, with the job that each had.
        self.dying: dict[WorkerProcess, str | None] = {}
        self.failed_starts = 0
        self.restart_at: float | None = None

    @property
    def is_free(self) -> bool:
        # The next solve may need the memory that a killed one still holds.
        has_job = self.job is not None or self.cleans_up_after is not None
        return self.ready and not has_job and not self.dying

    @property
    def is_warm(self) -> bool:
        return self.warm_until is not None

    def detour_for(self, owner: str) -> int:
        """How well the worker suits the owner's next job; the least is the best."""
        if not self.is_warm:
            return 1
        return 0 if self.owner == owner else 2


class LocalWorkers:
    """An :class:`megasam_server.service.executor.Executor` with child processes.

    Args:
        job_function: ``module:function`` that workers run.
        devices: one worker each.
        warm: how long workers with networks stay.
        environment: variables of the workers, beside those that show each its device.
        notes: folder where the processes are written down, for the next server.
        call_soon: runs a function in the server's thread; may be called from any thread.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        job_function: str,
        devices: Sequence[Device],
        warm: WarmOptions,
        environment: Mapping[str, str],
        notes: Path,
        call_soon: Callable[[Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job_function = job_function
        self._warm = warm
        self._environment = environment
        self._notes = WorkerNotes(notes)
        self._call_soon = call_soon
        self._clock = clock
        self._slots = [_Slot(device) for device in devices]
        self._events: ExecutorEvents
        self._draining = False
        self._closing = False

    @property
    def title(self) -> str:
        return ", ".join(
            slot.device.title + (" (warm)" if slot.is_warm else "") for slot in self._slots
        )

    def open(self, events: ExecutorEvents) -> None:
        self._events = events
        self._notes.end_leftovers()
        for slot in self._slots:
            self._start_worker(slot)

    def has_room(self) -> bool:
        return any(slot.is_free for slot in self._slots)

    def start(self, task: Task) -> str:
        free = [slot for slot in self._slots if slot.is_free]
        slot = min(free, key=lambda slot: slot.detour_for(task.owner))
        if slot.is_warm and slot.owner != task.owner:
            # The new process takes the job as soon as it can.
            self._replace_worker(slot)
        if slot.worker is None:
            self._call_soon(lambda: self._events.on_gone(task.job, "could not be started"))
            return slot.device.title
        warm = " (warm)" if slot.is_warm else ""
        slot.job, slot.owner, slot.warm_until = task.job, task.owner, None
        slot.goes_on = False
        slot.given += 1
        stays = self._warm.seconds > 0 and slot.given < self._warm.jobs
        slot.worker.start_job({**task.to_map(), "stays": stays})
        return f"{slot.device.title} in process {slot.worker.pid}{warm}"

    def stop(self, job: str) -> None:
        for slot in self._slots:
            if slot.job == job:
                slot.job = None
                if slot.goes_on and not self._draining:
                    slot.cleans_up_after = job
                    slot.cleans_until = self._clock() + _CLEAN_WITHIN
                else:
                    self._replace_worker(slot, job)

    def drain(self) -> None:
        self._draining = True
        for slot in self._slots:
            if slot.is_warm:
                self._end_worker(slot)

    def tick(self, now: float) -> None:
        for slot in self._slots:
            if slot.restart_at is not None and now >= slot.restart_at:
                self._start_worker(slot)
            elif slot.cleans_up_after is not None and now >= slot.cleans_until:
                self._not_kept(slot, "does not end to clean up")
            elif slot.warm_until is not None and now >= slot.warm_until:
                self._replace_worker(slot)

    def close(self) -> None:
        self._closing = True
        workers = [worker for slot in self._slots for worker in slot.dying]
        workers += [slot.worker for slot in self._slots if slot.worker is not None]
        for worker in workers:
            worker.kill()
        for worker in workers:
            if worker.join(timeout=5):
                self._notes.remove(worker.pid)

    def _end_worker(self, slot: _Slot, job: str | None = None) -> None:
        """``job``: what it has; it is gone when the process is."""
        assert slot.worker is not None
        slot.dying[slot.worker] = job
        slot.worker.kill()
        slot.worker, slot.ready, slot.warm_until = None, False, None

    def _replace_worker(self, slot: _Slot, job: str | None = None) -> None:
        self._end_worker(slot, job)
        self._start_worker(slot)

    def _not_kept(self, slot: _Slot, why: str) -> None:
        job, slot.cleans_up_after = slot.cleans_up_after, None
        assert slot.worker is not None
        _log.info("worker process %d is not kept for the next job: it %s", slot.worker.pid, why)
        self._replace_worker(slot, job)

    def _start_worker(self, slot: _Slot) -> None:
        slot.restart_at = None
        slot.ready = False
        slot.given = 0
        slot.warm_until = None
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
        elif content.get("kind") == "rested":
            self._on_rested(slot, content.get("why_not"))
        elif slot.job is not None:
            slot.goes_on = content.get("goes_on") is True
            self._events.on_report(slot.job, content)

    def _on_rested(self, slot: _Slot, why_not: str | None) -> None:
        job = slot.cleans_up_after
        if job is None:
            return
        if why_not or self._draining:
            self._not_kept(slot, why_not or "is not needed any more")
            return
        slot.cleans_up_after = None
        slot.warm_until = self._clock() + self._warm.seconds
        self._events.on_gone(job, "has ended")
        self._events.on_room()

    def _on_exit(self, slot: _Slot, worker: WorkerProcess, code: int) -> None:
        if self._closing:
            return
        self._notes.remove(worker.pid)
        if worker in slot.dying:
            job = slot.dying.pop(worker)
            if job is not None:
                self._events.on_gone(job, describe_exit(code))
            self._events.on_room()
            return
        job = slot.job or slot.cleans_up_after
        slot.job = slot.cleans_up_after = None
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
