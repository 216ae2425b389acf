"""What clients ask about the weights on the server: which are there, under which licences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from megasam_shared.protocol import CheckpointInfo, Checkpoints, ListCheckpoints

from megasam_server.checkpoints.facts import checkpoint_facts, glance_at_all
from megasam_server.service.answers import Answers
from megasam_server.service.background import Background
from megasam_server.service.sessions import Session


class CheckpointRequests:
    """Answers ListCheckpoints."""

    def __init__(self, background: Background, answers: Answers) -> None:
        self._background = background
        self._answers = answers

    @property
    def handlers(self) -> Mapping[type, Callable[[Session, Any], None]]:
        return {ListCheckpoints: self._on_list}

    def _on_list(self, session: Session, ask: ListCheckpoints) -> None:
        def look() -> list[CheckpointInfo]:
            return checkpoint_facts(glance_at_all())

        answer = partial(Checkpoints, ask.request)
        self._answers.later(self._background.slow, session, ask.request, look, answer)
