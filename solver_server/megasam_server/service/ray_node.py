"""What a Ray cluster runs on its nodes: one worker process for one job, and the way to talk to it.

The worker is the same child process as on a single machine, with the same scrubbed environment; the
actor around it only passes on what it says. When the actor dies, the worker's input closes and it
ends.
"""

from __future__ import annotations

import platform
import queue
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from megasam_server.service.worker_environment import worker_environment
from megasam_server.service.worker_process import WorkerProcess, describe_exit

GONE = "gone"
UNABLE = "unable"
_STOPPED_WITHIN = 5.0


class NodeWorker:
    """A Ray actor; its methods are called from several threads.

    Args:
        job_function: ``module:function`` that solves.
        environment: variables of the worker beside those of :func:`worker_environment`, which are
            this node's.
        further: names of more variables of this node that it gets.
        node: what Ray calls this node.
        sign: a file of the state folder, which must be here under the same path.
    """

    def __init__(
        self,
        job_function: str,
        environment: Mapping[str, str],
        further: Sequence[str],
        node: str,
        sign: str,
    ) -> None:
        self._node = f"{platform.node()} ({node})"
        self._said: queue.SimpleQueue[dict] = queue.SimpleQueue()
        self._process: WorkerProcess | None = None
        if not Path(sign).is_file():
            why = f"has no access to the state folder: {sign} is not there on node {self._node}"
            self._said.put({"kind": UNABLE, "why": why})
            return
        try:
            self._process = WorkerProcess(
                job_function,
                worker_environment(further) | environment,
                str(Path(sign).parent),
                self._on_message,
                lambda _, code: self._said.put({"kind": GONE, "how": describe_exit(code)}),
            )
        except OSError as error:
            why = f"could not be started on node {self._node} ({error})"
            self._said.put({"kind": UNABLE, "why": why})

    def reports(self) -> Iterator[dict]:
        """What the worker says as long as it lives; ``gone`` or ``unable`` is the last."""
        kind = ""
        while kind not in (GONE, UNABLE):
            said = self._said.get()
            kind = said.get("kind")
            yield said

    def solve(self, task: Mapping) -> None:
        """Hand over the job: the map of a :class:`megasam_server.service.executor.Task`."""
        assert self._process is not None
        self._process.start_job(dict(task))

    def stop(self) -> None:
        """End the worker and everything it started; the reports end then."""
        if self._process is not None:
            self._process.kill()
            self._process.join(_STOPPED_WITHIN)

    def _on_message(self, process: WorkerProcess, said: dict) -> None:
        if isinstance(said, dict) and said.get("kind") not in (GONE, UNABLE):
            if said.get("kind") == "ready":
                said = {"kind": "ready", "where": f"node {self._node} in process {process.pid}"}
            self._said.put(said)
