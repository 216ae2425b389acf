"""What clients ask about jobs: submit, cancel, list, attach."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from megasam_shared.errors import MegasamError
from megasam_shared.protocol import Attach, Cancel, JobChanged, Jobs, ListJobs, Submit

from megasam_server.service.answers import Answers
from megasam_server.service.background import Background
from megasam_server.service.checkpoint_roots import CheckpointRoots
from megasam_server.service.jobs import JobStore
from megasam_server.service.media_roots import MediaRoots
from megasam_server.service.options import ServerOptions
from megasam_server.service.ownership import Ownership
from megasam_server.service.runner import JobRunner
from megasam_server.service.server_log import JobLog
from megasam_server.service.sessions import Session
from megasam_server.service.submission import PlacedJob, place_submission

_log = logging.getLogger(__name__)


class JobRequests:
    """Answers Submit, Cancel, ListJobs and Attach."""

    def __init__(
        self,
        options: ServerOptions,
        jobs: JobStore,
        runner: JobRunner,
        ownership: Ownership,
        roots: MediaRoots,
        background: Background,
        answers: Answers,
    ) -> None:
        self._options = options
        self._jobs = jobs
        self._runner = runner
        self._ownership = ownership
        self._roots = roots
        self._checkpoints = CheckpointRoots(options.checkpoint_roots, options.any_checkpoints)
        self._background = background
        self._answers = answers

    @property
    def handlers(self) -> Mapping[type, Callable[[Session, Any], None]]:
        return {
            Submit: self._on_submit,
            Cancel: self._on_cancel,
            ListJobs: self._on_list,
            Attach: self._on_attach,
        }

    def _on_submit(self, session: Session, submit: Submit) -> None:
        known = self._jobs.find_submission(session.owner, submit.submission)
        if known is not None:
            session.watch(known.id)
            info = self._jobs.info(known.id)
            self._answers.send(session.identity, JobChanged(submit.request, info))
            return
        options = self._options
        check_priority(submit.priority, options.max_priority)
        self._jobs.check_room_in_queue(
            session.owner, options.queue_limit, options.queue_limit_per_client
        )
        job = self._jobs.new_id()
        folder = self._jobs.folder_of(job)

        def place() -> PlacedJob:
            return place_submission(
                submit,
                folder,
                self._ownership.uploads_of(session),
                self._roots,
                self._checkpoints,
                session.visitor.client,
                options.uploads,
            )

        queue_job = partial(self._queue_job, session, submit, job)
        self._answers.later(self._background.slow, session, submit.request, place, queue_job)

    def _queue_job(
        self, session: Session, submit: Submit, job: str, placed: PlacedJob
    ) -> JobChanged:
        known = self._jobs.find_submission(session.owner, submit.submission)
        if known is not None:  # it was sent twice in a row
            self._background.forget(partial(shutil.rmtree, self._jobs.folder_of(job).path))
            job = known.id
        else:
            self._jobs.add(
                job,
                session.owner,
                submit.submission,
                submit.name,
                placed.plate,
                placed.masks,
                placed.settings.to_map(),
                submit.priority,
            )
            JobLog(_log, job).info("%r queued by %r", submit.name, session.name)
        session.watch(job)
        self._background.call_soon(self._runner.wake)
        return JobChanged(submit.request, self._jobs.info(job))

    def _on_cancel(self, session: Session, cancel: Cancel) -> None:
        job = self._ownership.record(session, cancel.job).id
        self._runner.cancel(job)
        self._answers.send(session.identity, JobChanged(cancel.request, self._jobs.info(job)))

    def _on_list(self, session: Session, ask: ListJobs) -> None:
        jobs = self._jobs.newest(self._ownership.listed_owner(session))
        self._answers.send(session.identity, Jobs(ask.request, jobs))

    def _on_attach(self, session: Session, attach: Attach) -> None:
        job = self._ownership.record(session, attach.job).id
        info = self._jobs.info(job)
        session.watch(job)
        if info.finished is None:
            self._answers.send(session.identity, JobChanged(attach.request, info))
        else:
            result = self._jobs.result_of(job, attach.request)
            self._answers.send(session.identity, result)


def check_priority(asked: int, most: int) -> None:
    """Refuse a job that would go before those of everybody else.

    Raises:
        MegasamError: ``priority_too_high``.
    """
    if asked > most:
        raise MegasamError(
            "priority_too_high",
            f"The server takes jobs with a priority of at most {most}, not {asked}.",
            "Ask who runs the server to put the job forward (queue.max_priority in its config"
            " file).",
        )
