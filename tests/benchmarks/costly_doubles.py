"""Networks at their full cost, with random weights, that answer with the truth of a rendered clip.

Random weights alone would make keyframes and edges that no footage has. Here every layer runs, and
then what it said is replaced by the truth, so the engine tracks a real camera path. Each frame
carries its number as a patch of colour, the features carry it in one value.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
from megasam_server.geometry import se3
from megasam_server.geometry.projective import pixel_grid, projective_transform
from megasam_server.models.correlation import CorrelationVolume, OnTheFlyCorrelation
from megasam_server.models.depth_anything import DepthAnything
from megasam_server.models.droid_net import DroidNet
from megasam_server.models.raft import Flow, RaftFlow
from megasam_server.models.unidepth import UniDepthV2
from megasam_server.pipeline.out_of_memory import explained, release_memory
from megasam_server.raycast.clip import RenderedClip
from megasam_server.tracking.dense_slam.network import Correlations
from network_rows import randomise
from torch import Tensor
from torch.nn import functional as F

_PATCH = 1 / 12
"""Side of the patch that says a frame's number, share of the picture's height."""

_STEP = 25
"""Of its colours: a digit from 0 to 9 is 12 to 237."""


def with_number(picture: np.ndarray, number: int) -> np.ndarray:
    """RGB uint8 [H,W,3] with its number, below 1000, in the upper left corner; in place."""
    side = int(_PATCH * len(picture))
    picture[:side, :side] = [_STEP * (number // 10**k % 10) + _STEP // 2 for k in range(3)]
    return picture


def numbers_of(rgb: Tensor) -> Tensor:
    """[B,3,H,W], 0..255 -> int64 [B], without waiting for the device."""
    middle = int(_PATCH * rgb.shape[-2] / 2)
    digits = (rgb[:, :, middle, middle].float() / _STEP).long()
    return digits[:, 0] + 10 * digits[:, 1] + 100 * digits[:, 2]


@dataclass(frozen=True)
class Truth:
    """Of N frames, on the device: poses [N,7] cam_from_world, disparity [N,h,w] in 1/metres, moving
    [N,h,w] and intrinsics [4] of the tracker's cells; horizontal field of view in degrees; perhaps
    all coordinates [N,N,h,w,2]."""

    poses: Tensor
    disparity: Tensor
    moving: Tensor
    intrinsics: Tensor
    fov: float
    table: Tensor | None = None

    @classmethod
    def of(cls, cells: RenderedClip, device: torch.device) -> Truth:
        world = np.linalg.inv(cells.cameras.world_from_cam[0]) @ cells.cameras.world_from_cam
        poses = se3.from_matrix(torch.from_numpy(np.linalg.inv(world))).float()
        depth = torch.from_numpy(cells.depth)
        lens = cells.cameras.intrinsics
        numbers = torch.tensor([lens.fx[0], lens.fy[0], lens.cx[0], lens.cy[0]]).float()
        return cls(
            poses.to(device),
            torch.where(depth > 0, 1 / depth, 0.0).to(device),
            torch.from_numpy(cells.moving).to(device),
            numbers.to(device),
            float(np.degrees(2 * np.arctan(lens.width / (2 * lens.fx[0])))),
        )

    def with_table(self) -> Truth:
        """The same with all pairs computed, which costs memory and no time later."""
        count = len(self.poses)
        frames = torch.arange(count, device=self.poses.device)
        rows = [self.coordinates(frame.expand(count), frames) for frame in frames]
        return replace(self, table=torch.stack(rows))

    def coordinates(self, i: Tensor, j: Tensor) -> Tensor:
        """Where the cells of frames i are in frames j, [E,h,w,2]."""
        if self.table is not None:
            return self.table[i, j]
        return projective_transform(self.poses, self.disparity, self.intrinsics, i, j)[0]


def _numbered(fmap: Tensor, numbers: Tensor) -> Tensor:
    """Features that carry their frame's number; exact in half precision up to 2048."""
    fmap[:, 0, 0, 0] = numbers.to(fmap.dtype)
    return fmap


class _Volume:
    """The correlation volume, whose windows carry the numbers of both frames."""

    def __init__(self, fmaps_i: Tensor, fmaps_j: Tensor, volume=None, numbers=None) -> None:
        self._volume = CorrelationVolume(fmaps_i, fmaps_j) if volume is None else volume
        if numbers is None:
            numbers = torch.stack([fmaps_i[:, 0, 0, 0], fmaps_j[:, 0, 0, 0]], 1)
        self._numbers = numbers

    def lookup(self, coords: Tensor) -> Tensor:
        return _marked(self._volume.lookup(coords), self._numbers)

    def cat(self, other: _Volume) -> _Volume:
        numbers = torch.cat([self._numbers, other._numbers])
        return _Volume(None, None, self._volume.cat(other._volume), numbers)

    def __getitem__(self, mask: Tensor) -> _Volume:
        return _Volume(None, None, self._volume[mask], self._numbers[mask])


class _OnTheFly:
    def __init__(self, fmaps: Tensor) -> None:
        self._inner, self._numbers = OnTheFlyCorrelation(fmaps), fmaps[:, 0, 0, 0]

    def lookup(self, coords: Tensor, ii: Tensor, jj: Tensor) -> Tensor:
        numbers = torch.stack([self._numbers[ii], self._numbers[jj]], 1)
        return _marked(self._inner.lookup(coords, ii, jj), numbers)


def _marked(windows: Tensor, numbers: Tensor) -> Tensor:
    windows[:, :2, 0, 0] = numbers.to(windows.dtype)
    return windows


class TrackingDouble:
    """:class:`DroidNet` at work, the true flow for an answer; what moves does not count."""

    def __init__(self, network: DroidNet, truth: Truth) -> None:
        self._network, self._truth = network, truth
        self._grid = pixel_grid(*truth.disparity.shape[1:], torch.float32, truth.poses.device)
        height, width = self._grid.shape[:2]
        self._last = torch.tensor([width - 1.0, height - 1.0], device=truth.poses.device)

    def features(self, images: Tensor) -> Tensor:
        return _numbered(self._network.features(images), numbers_of(images.flip(1)))

    def context(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self._network.context(images)

    def source_inputs(self, inp: Tensor):
        return self._network.source_inputs(inp)

    def update(self, net, inp, corr, motion, ii, with_upmask):
        i, j = corr[:, 0, 0, 0].long(), corr[:, 1, 0, 0].long()
        said = self._network.update(net, inp, corr, motion, ii, with_upmask)
        coords = self._truth.coordinates(i, j)
        delta = coords - self._grid
        if motion is not None:
            delta = delta - motion[:, :2].permute(0, 2, 3, 1)
        if ii is None:
            return said._replace(delta=delta)
        static = (~self._truth.moving[i]).float()
        inside = ((coords >= 0) & (coords <= self._last)).all(-1)
        weight = (0.8 * static * inside)[..., None].expand_as(delta)
        eta = torch.full_like(said.eta, 0.004)
        return said._replace(delta=delta, eta=eta, motion_weight=weight, static_probability=static)


class FlowDouble:
    """:class:`RaftFlow` at work, the true flow for an answer."""

    def __init__(self, network: RaftFlow, truth: Truth) -> None:
        self._network, self._truth = network, truth

    def encode(self, images: Tensor):
        features = self._network.encode(images)
        return replace(features, fmap=_numbered(features.fmap, numbers_of(images)))

    def finish(self) -> None:
        self._network.finish()

    def flow_both_ways(self, a, b, iterations, init_ab, init_ba) -> tuple[Flow, Flow]:
        said = self._network.flow_both_ways(a, b, iterations, init_ab, init_ba)
        i, j = (features.fmap[:, 0, 0, 0].long() for features in (a, b))
        return self._flow(i, j, said[0]), self._flow(j, i, said[1])

    def _flow(self, i: Tensor, j: Tensor, said: Flow) -> Flow:
        coords = self._truth.coordinates(i, j)
        low = (coords - pixel_grid(*coords.shape[1:3], torch.float32, coords.device)).movedim(3, 1)
        low = torch.where(self._truth.moving[i][:, None], low + 0.5, low)
        return Flow(low, F.interpolate(8 * low, said.full.shape[2:], mode="bilinear"))


class MonoDouble:
    """:class:`DepthAnything` at work, the true disparity in another unit for an answer."""

    def __init__(self, network: DepthAnything, truth: Truth) -> None:
        self._network, self._truth = network, truth

    def disparity(self, images: Tensor) -> Tensor:
        said = self._network.disparity(images)
        true = 0.7 * self._truth.disparity[numbers_of(images)] + 0.02
        return F.interpolate(true[:, None], said.shape[1:], mode="bilinear")[:, 0]


class MetricDouble:
    """:class:`UniDepthV2` at work, the true depth for an answer."""

    def __init__(self, network: UniDepthV2, truth: Truth) -> None:
        self._network, self._truth = network, truth

    def infer(self, images: Tensor, intrinsics: Tensor | None = None):
        said = self._network.infer(images, intrinsics)
        depth = 1 / self._truth.disparity[numbers_of(images)].clamp(min=1e-3)
        depth = F.interpolate(depth[:, None], said.depth.shape[1:], mode="bilinear")[:, 0]
        fov = torch.full_like(said.horizontal_fov, self._truth.fov)
        return SimpleNamespace(depth=depth, horizontal_fov=fov)


class CostlyNetworks:
    """:class:`megasam_server.pipeline.networks.Networks` of the above.

    Args:
        truth: of the clip.
        depth_encoder: ``vits`` or ``vitl``.
        squeeze: stage -> bytes that the process may still take when the stage begins, as if another
            program had taken the rest after the solve began.

    Attributes:
        loading: seconds that borrowing took, by stage.
    """

    correlations = Correlations(_Volume, _OnTheFly)

    def __init__(
        self, truth: Truth, device: torch.device, squeeze: dict[str, int] | None = None
    ) -> None:
        self.device = device
        self.precision = torch.float16 if device.type == "cuda" else torch.float32
        self.truth, self._squeeze = truth, squeeze or {}
        self.loading: dict[str, float] = {}
        self.depth_encoder = "vitl"
        self._share = 1.0
        if device.type == "cuda":
            self._share = torch.cuda.get_per_process_memory_fraction()

    def identity(self, stage: str) -> str | None:
        return f"costly double of {stage}"

    def make_room(self, stage: str) -> None:
        """Squeeze the stage."""
        if self.device.type == "cuda":
            release_memory()
            share = self._share
            if stage in self._squeeze:
                total = torch.cuda.get_device_properties(self.device).total_memory
                share = (torch.cuda.memory_reserved() + self._squeeze[stage]) / total
            torch.cuda.set_per_process_memory_fraction(min(share, self._share))

    def empty_device(self) -> bool:
        return False

    @contextmanager
    def borrow(self, stage: str) -> Iterator[object]:
        started = time.perf_counter()
        make, double = {
            "mono_depth": (lambda: DepthAnything(self.depth_encoder, 2), MonoDouble),
            "metric_depth": (lambda: UniDepthV2("vitl"), MetricDouble),
            "tracking": (DroidNet, TrackingDouble),
            "flow": (RaftFlow, FlowDouble),
        }[stage]
        self.make_room(stage)
        torch.set_default_dtype(_precision(stage, self.precision))
        try:
            with explained(stage), torch.device(self.device):
                network = randomise(make()).eval().requires_grad_(False)
                if stage == "metric_depth" and self.device.type == "cuda":
                    network.halve_encoder()
        finally:
            torch.set_default_dtype(torch.float32)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.loading[stage] = time.perf_counter() - started
        try:
            yield double(network, self.truth)
        finally:
            network.to("meta")
            self.make_room("")


def _precision(stage: str, precision: torch.dtype) -> torch.dtype:
    return torch.float32 if stage == "metric_depth" else precision
