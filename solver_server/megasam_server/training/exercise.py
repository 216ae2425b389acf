"""A lesson of the tracking network worked through."""

from __future__ import annotations

import torch
from torch import Tensor

from megasam_server.training.recorded_losses import Losses, RecordedLosses
from megasam_server.training.tracker_losses import Teacher
from megasam_server.training.unrolling import ClipGraph, Lesson, Plan, State, unroll
from megasam_server.training.working_copy import WorkingCopy


class Exercise:
    """Forward and backward pass of the loop over clips.

    Args:
        copy: of the network that learns.
        graph: of the lessons.
        scaler: of the loss; its scale lives on the device.
        geometry: learn through the last bundle adjustment, where there is one.
    """

    def __init__(
        self, copy: WorkingCopy, graph: ClipGraph, scaler: torch.amp.GradScaler, geometry: bool
    ) -> None:
        self._copy, self._graph, self._geometry = copy, graph, geometry
        self._recorded = RecordedLosses(self._losses, copy, scaler, graph.grid.device)

    def work_through(self, lesson: Lesson, start: State, plan: Plan) -> dict[str, Tensor]:
        """Leave the scaled gradients at the master. Returns the loss and its parts, scalars."""
        return self._recorded.work_through(lesson, start, plan=plan)

    def _losses(self, lesson: Lesson, start: State, plan: Plan) -> Losses:
        teacher = Teacher(lesson, self._graph, plan.iterations)
        revision = None
        for revision in unroll(self._copy.network, lesson, self._graph, start, plan):
            teacher.hear(revision)
        if plan.by_bundle and self._geometry:
            teacher.examine(revision)
        return teacher.losses()
