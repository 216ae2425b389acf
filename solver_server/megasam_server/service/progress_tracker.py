"""Where a running job is: one fraction and one estimate out of what its stages report."""

from __future__ import annotations

import math
from dataclasses import replace

from megasam_shared.protocol import Progress
from megasam_shared.stages import STAGE_BY_KEY, STAGES

_LEAST_INTERVAL = 0.1
_REPEAT_AFTER = 0.9
_JUDGE_FROM = 0.02


class ProgressTracker:
    """Collects reports of one job.

    Each stage counts with its weight; a stage that was skipped counts as done. The fraction never
    goes back. The time left assumes that the rest goes as fast as what is done.

    Args:
        job: its id.
        now: seconds of any monotonic clock at the start of the job.
    """

    def __init__(self, job: str, now: float) -> None:
        self._job = job
        self._started = now
        self._sent = -math.inf
        self._changed = True
        self._share = {stage.key: 0.0 for stage in STAGES}
        self._skipped: list[str] = []
        self._current = ("", 0.0, 0.0, "")
        self._fraction = 0.0
        self._preview = (0, b"")

    @property
    def stage(self) -> str:
        """The stage that reported last; empty before the first."""
        return self._current[0]

    def update(self, stage: str, done: float, total: float, note: str) -> None:
        """A stage has ``done`` of ``total`` units. Stages that no table knows do not count."""
        self._changed = True
        self._current = (stage, done, total, note)
        if stage in self._share:
            share = done / total if total > 0 else 0.0
            self._share[stage] = max(self._share[stage], min(1.0, share))

    def skip(self, stage: str) -> None:
        if stage in self._share and stage not in self._skipped:
            self._changed = True
            self._skipped.append(stage)
            self._share[stage] = 1.0

    def preview(self, frame: int, jpeg: bytes) -> None:
        """Keep the newest picture until the next message."""
        self._changed = True
        self._preview = (frame, jpeg)

    def is_due(self, now: float) -> bool:
        """Something new to say, or a sign of life to give."""
        return self.due_in(now) <= 0

    def due_in(self, now: float) -> float:
        """Seconds until :meth:`is_due`, if nothing more happens; not above 0 when it is already."""
        return self._sent + (_LEAST_INTERVAL if self._changed else _REPEAT_AFTER) - now

    def message(self, now: float) -> Progress:
        """The message for clients; counts as sent."""
        message = replace(
            self.glance(now), preview=self._preview[1], preview_frame=self._preview[0]
        )
        self._sent, self._changed, self._preview = now, False, (0, b"")
        return message

    def glance(self, now: float) -> Progress:
        """Where the job is, without the preview."""
        weights = sum(stage.weight for stage in STAGES)
        reached = sum(share * STAGE_BY_KEY[key].weight for key, share in self._share.items())
        self._fraction = max(self._fraction, min(1.0, reached / weights))
        elapsed = now - self._started
        eta = None
        if self._fraction >= _JUDGE_FROM:
            eta = elapsed * (1.0 - self._fraction) / self._fraction
        stage, done, total, note = self._current
        return Progress(
            job=self._job,
            stage=stage,
            done=done,
            total=total,
            note=note,
            fraction=self._fraction,
            skipped=list(self._skipped),
            elapsed=elapsed,
            eta=eta,
        )
