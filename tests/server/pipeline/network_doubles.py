"""Stand-ins for the four networks that know the truth of a rendered clip.

They are given pictures, as the networks are, and recognise the frame by its picture. What they say
is the truth with noise; everything between them and the result is the engine's own work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from megasam_server.geometry import se3
from megasam_server.geometry.projective import projective_transform
from megasam_server.models.raft import Flow, RaftFeatures
from megasam_server.raycast.clip import RenderedClip, Take, render_clip
from torch import Tensor

from tests.server.tracking.flow_oracle import FRAME_NUMBERS, FlowOracle

_THUMBNAIL = (16, 16)
SHIFT = 4.0
"""Pixels that everything that moves is said to go to the right, from any frame to a later one."""


@dataclass(frozen=True)
class KnownClip:
    """A rendered clip and the same cameras on the tracker's grid.

    Attributes:
        take: its plate has the tracker's size, so that truth need not be resized.
        clip: rendered. cells: depth and movers of the grid, rendered at its size.
    """

    take: Take
    clip: RenderedClip
    cells: RenderedClip

    @classmethod
    def of(cls, take: Take) -> KnownClip:
        camera = take.camera
        small = replace(
            camera,
            width=camera.width // 8,
            height=camera.height // 8,
            focal_at=lambda time: camera.focal_at(time) / 8,
        )
        return cls(take, render_clip(take), render_clip(replace(take, camera=small)))


class Recognition:
    """Which frame a picture shows, at any size and in any order of channels."""

    def __init__(self, clip: RenderedClip) -> None:
        self._thumbnails = np.stack([self._thumbnail(rgb) for rgb in clip.rgb])

    def __call__(self, images: Tensor) -> Tensor:
        """[B,3,H,W] uint8 -> frame numbers [B]."""
        found = []
        for image in images.cpu().numpy().transpose(0, 2, 3, 1):
            distance = np.abs(self._thumbnails - self._thumbnail(image)).sum(axis=(1, 2))
            found.append(int(distance.argmin()))
        return torch.tensor(found)

    @staticmethod
    def _thumbnail(picture: np.ndarray) -> np.ndarray:
        return cv2.resize(
            picture.astype(np.float32).mean(axis=2), _THUMBNAIL, interpolation=cv2.INTER_AREA
        )


def poses_of(clip: RenderedClip) -> Tensor:
    """cam_from_world [N,7] with the first camera as the world."""
    world_from_cam = np.linalg.inv(clip.cameras.world_from_cam[0]) @ clip.cameras.world_from_cam
    return se3.from_matrix(torch.from_numpy(np.linalg.inv(world_from_cam))).float()


def disparity_of(clip: RenderedClip) -> Tensor:
    """1 / metres [N,H,W]; 0 in the sky."""
    depth = torch.from_numpy(clip.depth)
    return torch.where(depth > 0, 1 / depth, 0.0)


def lens_of(clip: RenderedClip) -> Tensor:
    """fx, fy, cx, cy [4] of the first frame, pixel centres at integers."""
    lens = clip.cameras.intrinsics
    return torch.tensor([lens.fx[0], lens.fy[0], lens.cx[0], lens.cy[0]]).float()


class TrackingDouble(FlowOracle):
    """The true flow with Gaussian noise of ``sigma`` cells; movers do not count."""

    def __init__(self, known: KnownClip, sigma: float) -> None:
        cells = known.cells
        moving = torch.from_numpy(cells.moving)

        def disturbed(i: Tensor, j: Tensor, coords: Tensor) -> Tensor:
            seeds = (1000 * i + j).tolist()
            noise = [
                torch.randn(coords.shape[1:], generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ]
            return coords + sigma * torch.stack(noise)

        super().__init__(
            poses_of(cells),
            disparity_of(cells),
            lens_of(cells),
            static=lambda i, j, coords: (~moving[i]).float(),
            disturb=disturbed,
            sees_outside=False,
        )
        self._recognise = Recognition(known.clip)

    def features(self, images: Tensor) -> Tensor:
        numbers = self._recognise(images).float()
        return numbers[:, None, None, None].expand(-1, 128, *self._grid.shape[:2])


class FlowDouble:
    """The true flow of what is static; what moves goes to the right."""

    def __init__(self, known: KnownClip, sigma: float) -> None:
        clip = known.clip
        self._scene = poses_of(clip), disparity_of(clip), lens_of(clip)
        self._moving = torch.from_numpy(clip.moving)
        self._sigma = sigma
        self._recognise = Recognition(clip)
        self.encoded: list[int] = []

    def encode(self, images: Tensor) -> RaftFeatures:
        numbers = self._recognise(images)
        self.encoded += numbers.tolist()
        features = numbers.float()[:, None, None, None]
        return RaftFeatures(features, features, features)

    def finish(self) -> None:
        pass

    def flow_both_ways(self, a, b, iterations, init_ab, init_ba) -> tuple[Flow, Flow]:
        i, j = (features.fmap[:, 0, 0, 0].long() for features in (a, b))
        for init in (init_ab, init_ba):
            assert init is None or len(init) == len(i)
        return self._flow(i, j, SHIFT), self._flow(j, i, -SHIFT)

    def _flow(self, i: Tensor, j: Tensor, shift: float) -> Flow:
        coords, _ = projective_transform(*self._scene, i, j)  # [B,H,W,2]
        height, width = coords.shape[1:3]
        grid = torch.stack(
            torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1
        )
        flow = coords - grid
        flow[..., 0] += shift * self._moving[i]
        flow += self._sigma * torch.randn(
            flow.shape, generator=torch.Generator().manual_seed(int(1000 * i[0] + j[0]))
        )
        full = flow.permute(0, 3, 1, 2)
        return Flow(torch.nn.functional.avg_pool2d(full, 8) / 8, full)


class MonoDouble:
    """True disparity in a unit and with a zero of its own, with smooth and with fine errors."""

    def __init__(self, known: KnownClip, error: float) -> None:
        self._disparity = disparity_of(known.clip)
        self._error = error
        self._recognise = Recognition(known.clip)

    def disparity(self, images: Tensor) -> Tensor:
        seen = []
        for number in self._recognise(images).tolist():
            noise = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(number))
            smooth = torch.nn.functional.interpolate(
                noise, images.shape[-2:], mode="bilinear", align_corners=True
            )[0, 0]
            seen.append(0.7 * self._disparity[number] * (self._error * smooth).exp() + 0.02)
        return torch.stack(seen)


class MetricDouble:
    """True depth in metres with a bias, and the true field of view with another."""

    def __init__(self, known: KnownClip, bias: float = 1.02, fov_bias: float = 1.03) -> None:
        self._known, self._bias, self._fov_bias = known, bias, fov_bias
        self._recognise = Recognition(known.clip)
        self.asked: list[int] = []
        self.intrinsics: list[Tensor | None] = []

    def infer(self, images: Tensor, intrinsics: Tensor | None = None):
        numbers = self._recognise(images)
        self.asked += numbers.tolist()
        self.intrinsics.append(intrinsics)
        depth = torch.from_numpy(self._known.clip.depth)[numbers][:, None]
        depth = torch.nn.functional.interpolate(depth, images.shape[-2:], mode="nearest-exact")
        clip = self._known.clip
        focal, width = clip.cameras.intrinsics.fx[0], clip.cameras.intrinsics.width
        fov = 2 * np.degrees(np.arctan(width / (2 * focal))) * self._fov_bias
        return SimpleNamespace(
            depth=self._bias * depth[:, 0], horizontal_fov=torch.full((len(numbers),), fov)
        )


class DoubleNetworks:
    """Doubles in the place of loaded checkpoints; counts what is borrowed.

    Args:
        doubles: by stage.
        failures: stage -> how many times borrowing it ends in an out-of-memory of the GPU.
    """

    device = torch.device("cpu")
    precision = torch.float32
    correlations = FRAME_NUMBERS

    def __init__(self, doubles: dict[str, object], failures: dict[str, int] | None = None) -> None:
        self.doubles, self.failures = doubles, dict(failures or {})
        self.borrowed: list[str] = []
        self._lent: str | None = None

    def identity(self, stage: str) -> str | None:
        return f"double of {stage}" if stage in self.doubles else None

    def make_room(self, stage: str) -> None:
        pass

    def empty_device(self) -> bool:
        return False

    @contextmanager
    def borrow(self, stage: str) -> Iterator[object]:
        assert self._lent is None, f"{self._lent} is still there when {stage} needs the room"
        self._lent = stage
        self.borrowed.append(stage)
        try:
            if self.failures.get(stage, 0) > 0:
                self.failures[stage] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")
            yield self.doubles[stage]
        finally:
            self._lent = None


def all_doubles(known: KnownClip, sigma: float = 0.015, **left_out: bool) -> dict[str, object]:
    """Doubles of all networks but those that are ``False``."""
    doubles = {
        "mono_depth": MonoDouble(known, 0.05),
        "metric_depth": MetricDouble(known),
        "tracking": TrackingDouble(known, sigma),
        "flow": FlowDouble(known, 4 * sigma),
    }
    return {stage: double for stage, double in doubles.items() if left_out.get(stage, True)}
