"""A stand-in for the network that knows the true flow of the clip.

The features of a frame hold its number, the "correlation" of an edge the numbers of its two frames: so the update
operator knows which flow is asked for, while the tracker treats it as any other network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from megasam_server.geometry.projective import pixel_grid, projective_transform
from megasam_server.tracking.dense_slam.frames import TrackingFrame
from megasam_server.tracking.dense_slam.network import Correlations
from torch import Tensor

_CHANNELS = 196


def numbered_image(number: int, height: int, width: int) -> Tensor:
    """[3, height, width] uint8 that says which frame it is."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0], image[1] = number % 256, number // 256
    return image


class NumberedFrames:
    """Frames of nothing but their number, with priors and masks [N, h, w] if there are any."""

    def __init__(
        self,
        count: int,
        height: int,
        width: int,
        priors: Tensor | None = None,
        keeps: Tensor | None = None,
    ) -> None:
        self._count, self._size = count, (height, width)
        self._priors, self._keeps = priors, keeps

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> TrackingFrame:
        return TrackingFrame(
            numbered_image(index, *self._size),
            None if self._priors is None else self._priors[index],
            None if self._keeps is None else self._keeps[index],
        )


class _NumbersOfEdges:
    """In place of correlation volumes: the frame numbers of each edge in the first two channels."""

    def __init__(self, fmaps_i: Tensor, fmaps_j: Tensor) -> None:
        self._numbers = torch.stack([fmaps_i[:, 0, 0, 0], fmaps_j[:, 0, 0, 0]], dim=1)

    def lookup(self, coords: Tensor) -> Tensor:
        corr = coords.new_zeros(len(coords), _CHANNELS, *coords.shape[1:3])
        corr[:, :2] = self._numbers[:, :, None, None].float()
        return corr

    def cat(self, other: _NumbersOfEdges) -> _NumbersOfEdges:
        return self._of(torch.cat([self._numbers, other._numbers]))

    def __getitem__(self, mask: Tensor) -> _NumbersOfEdges:
        return self._of(self._numbers[mask])

    @classmethod
    def _of(cls, numbers: Tensor) -> _NumbersOfEdges:
        edges = cls.__new__(cls)
        edges._numbers = numbers
        return edges


class _NumbersOfFrames:
    def __init__(self, fmaps: Tensor) -> None:
        self._fmaps = fmaps

    def lookup(self, coords: Tensor, ii: Tensor, jj: Tensor) -> Tensor:
        return _NumbersOfEdges(self._fmaps[ii], self._fmaps[jj]).lookup(coords)


FRAME_NUMBERS = Correlations(_NumbersOfEdges, _NumbersOfFrames)


@dataclass(frozen=True)
class OracleUpdate:
    net: Tensor
    delta: Tensor
    eta: Tensor
    motion_weight: Tensor
    static_probability: Tensor


class FlowOracle:
    """A network whose every answer is the true flow.

    Args:
        poses: [N, 7] cam_from_world; disps: [N, h, w]; intrinsics: [4] of the 1/8 grid: the truth.
        static: (numbers_i [E], numbers_j [E], true coords [E, h, w, 2]) -> static probability [E, h, w].
        confidence: of every pixel whose flow is known.
        disturb: (numbers_i, numbers_j, true coords) -> coords: what the network takes for the flow.
        sees_outside: it is also sure of what leaves the picture, as no network is.
    """

    def __init__(
        self,
        poses: Tensor,
        disps: Tensor,
        intrinsics: Tensor,
        static: Callable[[Tensor, Tensor, Tensor], Tensor],
        confidence: float = 0.8,
        disturb: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        sees_outside: bool = True,
    ) -> None:
        self._scene = poses, disps, intrinsics
        self._static, self._confidence, self._disturb = static, confidence, disturb
        self._sees_outside = sees_outside
        self._grid = pixel_grid(*disps.shape[1:])

    def features(self, images: Tensor) -> Tensor:
        numbers = images[:, 0, 0, 0].float() + 256 * images[:, 1, 0, 0].float()
        return numbers[:, None, None, None].expand(-1, 128, *self._grid.shape[:2])

    def context(self, images: Tensor) -> tuple[Tensor, Tensor]:
        nothing = torch.zeros(len(images), 128, *self._grid.shape[:2])
        return nothing, nothing

    def source_inputs(self, inp: Tensor):
        return inp

    def update(self, net, inp, corr, motion, ii, with_upmask) -> OracleUpdate:
        i, j = corr[:, 0, 0, 0].long(), corr[:, 1, 0, 0].long()
        coords, _ = projective_transform(*self._scene, i, j)
        static = self._static(i, j, coords)
        sure = self._confidence * static
        if not self._sees_outside:
            last = torch.tensor([coords.shape[2] - 1, coords.shape[1] - 1])
            sure = sure * ((coords >= 0) & (coords <= last)).all(dim=-1)
        if self._disturb is not None:
            coords = self._disturb(i, j, coords)
        delta = coords - self._grid
        if motion is not None:
            # Right as long as the motion is not clamped.
            delta = delta - motion[:, :2].permute(0, 2, 3, 1)
        weight = sure[..., None].expand_as(delta)
        sources = 1 if ii is None else len(ii.frames)
        eta = torch.full((sources, *self._grid.shape[:2]), 0.004)
        return OracleUpdate(net, delta, eta, weight, static)
