"""The tracker's loop over generated clips: update operator and bundle adjustment in turn.

Frames of all clips lie in one graph, ordered by time and then by clip: frame t of clip b is number
t * B + b. So the first frames of all clips come first, where bundle adjustment wants its fixed
poses, and one adjustment serves all clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from megasam_server.geometry import se3
from megasam_server.geometry.dense_bundle import BundleOptions, dense_bundle_adjust
from megasam_server.geometry.edge_topology import EdgeTopology
from megasam_server.geometry.projective import pixel_grid, projective_transform
from megasam_server.models.correlation import CorrelationVolume
from megasam_server.models.droid_net import DroidNet, EdgeSources, UpdateOutput
from megasam_server.tracking.dense_slam.factor_graph import motion_features
from megasam_server.tracking.dense_slam.options import TrackerOptions
from megasam_server.training.clips import Clips, clip_edges

# Damping of the disparities until the network has one of its own.
FIRST_ETA = 1e-4
# A state this much worse than the one before, in cells, has gone astray.
ASTRAY_CELLS = 2.0
# How much of the way to the truth is made between iterations where no bundle adjustment runs.
APPROACH = 0.3
# The tracker's first disparity.
FLAT = 1.0
SMALLEST_DISPARITY = 1e-3
TRACKER = TrackerOptions()


@dataclass(frozen=True)
class State:
    """What bundle adjustment moves: poses [N,7], disparities [N,h,w]."""

    poses: Tensor
    disps: Tensor

    def clone(self) -> State:
        """The same in memory of its own."""
        return State(self.poses.clone(), self.disps.clone())

    def copy_(self, other: State) -> None:
        """Overwrite the tensors."""
        self.poses.copy_(other.poses)
        self.disps.copy_(other.disps)

    def toward(self, truth: State, share: Tensor, share_of_disparity: Tensor) -> State:
        """Some of the way to the true state; the shares are 0..1, [N]."""
        left = se3.log(se3.relative(truth.poses, self.poses))
        poses = se3.retract(self.poses, share[:, None] * left)
        own, true = (x.clamp(min=SMALLEST_DISPARITY).log() for x in (self.disps, truth.disps))
        return State(poses, torch.lerp(own, true, share_of_disparity[:, None, None]).exp())

    def where(self, chosen: Tensor, other: State) -> State:
        """This state for the frames ``chosen`` [N], the other for the rest."""
        return State(
            torch.where(chosen[:, None], self.poses, other.poses),
            torch.where(chosen[:, None, None], self.disps, other.disps),
        )


class ClipGraph:
    """The edges of B clips of T frames on h x w cells, and all that follows from them alone.

    Attributes:
        ii, jj: int64 [E*B], edge by edge, then clip by clip.
        clip: int64 [E*B], the clip of each edge; clip_of_frame: [T*B], of each frame.
        sources: of the edges; grid: [h,w,2] the cells' own places.
    """

    def __init__(
        self, clips: int, frames: int, size: tuple[int, int], device: torch.device
    ) -> None:
        edges = clip_edges(frames)[:, None] * clips + np.arange(clips)[:, None]  # [E,B,2]
        edges = edges.reshape(-1, 2)
        self.clips, self.frames = clips, frames
        self.ii, self.jj = torch.from_numpy(edges.T.copy()).to(device)
        self.clip = self.ii % clips
        self.clip_of_frame = torch.arange(clips * frames, device=device) % clips
        self.sources = EdgeSources.of(self.ii)
        self.grid = pixel_grid(*size, torch.float32, device)
        count = clips * frames
        self._topology = EdgeTopology.build(edges, clips, count, size[0] * size[1], device)
        self._no_prior = torch.zeros(count, *size, device=device)
        self._bundle = BundleOptions(
            iterations=TRACKER.bundle_iterations, lm=TRACKER.damping, ep=TRACKER.damping_floor
        )

    def adjust(
        self,
        state: State,
        intrinsics: Tensor,
        target: Tensor,
        weight: Tensor,
        eta: Tensor | None = None,
    ) -> State:
        """One bundle adjustment of the tracker; eta [N,h,w], None for FIRST_ETA."""
        if eta is None:
            eta = torch.full_like(state.disps, FIRST_ETA)
        eta = eta + TRACKER.min_eta
        fitted = dense_bundle_adjust(
            *(state.poses, state.disps, intrinsics, self._no_prior),
            *(target, weight, eta, self._topology, self._bundle),
        )
        return State(fitted.poses, fitted.disps)

    def mean_of_clips(self, values: Tensor, counted: Tensor) -> Tensor:
        """Mean of ``values`` where ``counted``, both [E*B,h,w], of each clip: [B]."""
        total, count = (x.flatten(1).sum(1) for x in (values * counted, counted.float()))
        per_clip = values.new_zeros(2, self.clips)
        per_clip.index_add_(1, self.clip, torch.stack([total, count]))
        return per_clip[0] / per_clip[1].clamp(min=1)


@dataclass(frozen=True)
class Lesson:
    """A batch of clips as the graph has its frames and edges.

    Attributes:
        pictures: uint8 BGR [N,3,H,W]; intrinsics [N,4].
        truth: true poses and disparities.
        target, valid: of the edges, [E*B,h,w,2] and [E*B,h,w].
        rigid: where the cameras alone would take the cells, [E*B,h,w,2].
        static: of the edges' sources: does not move by itself, bool [E*B,h,w].
    """

    pictures: Tensor
    intrinsics: Tensor
    truth: State
    target: Tensor
    valid: Tensor
    rigid: Tensor
    static: Tensor

    def clone(self) -> Lesson:
        """The same in memory of its own."""
        return Lesson(*(getattr(self, field.name).clone() for field in fields(self)))

    def copy_(self, other: Lesson) -> None:
        """Overwrite the tensors."""
        for field in fields(self):
            getattr(self, field.name).copy_(getattr(other, field.name))

    @classmethod
    def of(cls, clips: Clips, graph: ClipGraph) -> Lesson:
        def by_time(x: Tensor) -> Tensor:
            return x.transpose(0, 1).flatten(0, 1)

        truth = State(by_time(clips.poses), by_time(clips.disps))
        intrinsics = clips.intrinsics.repeat(clips.frames, 1)
        rigid, in_front = project(truth, intrinsics, graph)
        return cls(
            by_time(clips.pictures),
            intrinsics,
            truth,
            by_time(clips.target),
            by_time(clips.valid) & in_front,
            rigid,
            ~by_time(clips.moving)[graph.ii],
        )


@dataclass(frozen=True)
class Plan:
    """How the loop runs.

    Attributes:
        iterations: that are learned from.
        run_in: before these, without gradients.
        by_bundle: the state follows by bundle adjustment; else it approaches the truth by itself, whatever the
            network says: for a network that knows nothing yet.
        motion: with the branch that says what stands still, and the network's own damping.
    """

    iterations: int
    run_in: int = 0
    by_bundle: bool = True
    motion: bool = False


@dataclass(frozen=True)
class Revision:
    """One call of the update operator on all edges.

    Attributes:
        coords: where the state takes the cells, [E*B,h,w,2]; target: where the network wants them.
        state: before the call.
    """

    coords: Tensor
    target: Tensor
    state: State
    output: UpdateOutput

    @property
    def weight(self) -> Tensor:
        """That of bundle adjustment, [E*B,h,w,2]."""
        moved = self.output.motion_weight
        return self.output.weight if moved is None else moved


def project(state: State, intrinsics: Tensor, graph: ClipGraph) -> tuple[Tensor, Tensor]:
    """Where the state takes the cells of all edges, and whether that is in front of the camera."""
    return projective_transform(state.poses, state.disps, intrinsics, graph.ii, graph.jj)


def cold_start(lesson: Lesson, graph: ClipGraph) -> State:
    """As the tracker starts: all cameras in one place, before a wall."""
    truth = lesson.truth
    first = truth.poses[: graph.clips].repeat(graph.frames, 1)
    return State(first, torch.full_like(truth.disps, FLAT))


def random_start(lesson: Lesson, graph: ClipGraph, random: torch.Generator) -> State:
    """Cold for some of the clips, for the others somewhere between that and the truth."""
    shares = torch.rand(3, graph.clips, generator=random, device=random.device)
    warm = (shares[0] > 0.4).float()
    pose_share, disparity_share = ((warm * share)[graph.clip_of_frame] for share in shares[1:])
    return cold_start(lesson, graph).toward(lesson.truth, pose_share, disparity_share)


def unroll(
    network: DroidNet, lesson: Lesson, graph: ClipGraph, start: State, plan: Plan
) -> Iterator[Revision]:
    """Run the loop; yields the iterations that are learned from."""
    fmaps = network.features(lesson.pictures)
    nets, inps = network.context(lesson.pictures)
    volume = CorrelationVolume(fmaps.index_select(0, graph.ii), fmaps.index_select(0, graph.jj))
    net, inputs = nets.index_select(0, graph.ii), network.source_inputs(inps)[graph.ii]
    approach = [torch.full_like(start.poses[:, 0], APPROACH)] * 2
    place = _Place.of(start, lesson, graph)
    first, target = place, place.coords
    for k in range(plan.run_in + plan.iterations):
        coords = place.coords
        motion = motion_features(coords, target.detach(), graph.grid, TRACKER.max_motion)
        learning = torch.is_grad_enabled() and k >= plan.run_in
        with torch.set_grad_enabled(learning):
            sources = graph.sources if plan.motion else None
            output = network.update(
                net, inputs, volume.lookup(coords), motion, sources, with_upmask=False
            )
        net, target = output.net, coords + output.delta
        revision = Revision(coords, target, place.state, output)
        if k >= plan.run_in:
            yield revision
        with torch.no_grad():
            if plan.by_bundle:
                place = _adjusted(revision, place, first, lesson, graph)
            else:
                place = _Place.of(place.state.toward(lesson.truth, *approach), lesson, graph)


@dataclass(frozen=True)
class _Place:
    """A state, where it takes the cells of the edges, and how far that is from the truth, cells [B]."""

    state: State
    coords: Tensor
    error: Tensor

    @classmethod
    def of(cls, state: State, lesson: Lesson, graph: ClipGraph) -> _Place:
        coords, _ = project(state, lesson.intrinsics, graph)
        off = (coords - lesson.rigid).norm(dim=-1)
        return cls(state, coords, graph.mean_of_clips(off, lesson.valid & lesson.static))


def _adjusted(
    revision: Revision, before: _Place, first: _Place, lesson: Lesson, graph: ClipGraph
) -> _Place:
    """After bundle adjustment; a clip that went astray starts again."""
    target, weight, eta = revision.target, revision.weight, revision.output.eta
    state = graph.adjust(revision.state, lesson.intrinsics, target, weight, eta)
    after = _Place.of(state, lesson, graph)
    sound = after.error < before.error + ASTRAY_CELLS  # False for what is no number
    return _Place(
        state.where(sound[graph.clip_of_frame], first.state),
        torch.where(sound[graph.clip][:, None, None, None], after.coords, first.coords),
        torch.where(sound, after.error, first.error),
    )
