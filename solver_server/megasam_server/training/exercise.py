"""A lesson worked through: losses, and gradients at the master, as one graph of kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from megasam_server.models.cuda_graph import Replayed
from megasam_server.training.tracker_losses import Teacher
from megasam_server.training.unrolling import ClipGraph, Lesson, Plan, State, unroll
from megasam_server.training.working_copy import WorkingCopy


class Exercise:
    """Forward and backward pass of the loop over clips.

    They are thousands of small kernels, which take longer to start one by one than to run. So for
    each plan they are recorded once (:class:`Replayed`), and a lesson is copied to where the graph
    reads it.

    Args:
        copy: of the network that learns.
        graph: of the lessons.
        scaler: of the loss; its scale lives on the device.
        geometry: learn through the last bundle adjustment, where there is one.
    """

    def __init__(
        self, copy: WorkingCopy, graph: ClipGraph, scaler: torch.amp.GradScaler, geometry: bool
    ) -> None:
        self._copy, self._graph, self._scaler = copy, graph, scaler
        self._geometry = geometry
        self._given: tuple[Lesson, State] | None = None
        self._recorded: dict[Plan, Replayed] = {}
        self._figures: dict[Plan, dict[str, Tensor]] = {}

    def work_through(self, lesson: Lesson, start: State, plan: Plan) -> dict[str, Tensor]:
        """Leave the scaled gradients at the master. Returns the loss and its parts, scalars."""
        if self._given is None:
            self._given = lesson.clone(), start.clone()
        else:
            for place, given in zip(self._given, (lesson, start), strict=True):
                place.copy_(given)
        if plan not in self._recorded:
            self._recorded[plan] = Replayed(lambda: self._work(plan), start.poses.device)
        self._recorded[plan]()
        # The next replay writes to the same place.
        return {name: figure.clone() for name, figure in self._figures[plan].items()}

    def _work(self, plan: Plan) -> None:
        lesson, start = self._given
        teacher = Teacher(lesson, self._graph, plan.iterations)
        revision = None
        for revision in unroll(self._copy.network, lesson, self._graph, start, plan):
            teacher.hear(revision)
        if plan.by_bundle and self._geometry:
            teacher.examine(revision)
        losses = teacher.losses()
        self._copy.take_gradients(self._scaler.scale(losses.total))
        self._figures[plan] = losses.parts
