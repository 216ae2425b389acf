"""Correlation of two feature maps: every pixel of frame i against every pixel of frame j.

C[y,x,v,u] = <f_i[y,x], f_j[v,u]> / 16, at four levels: level l is frame j averaged over 2^l x 2^l
pixels. An update reads, per pixel and level, the values in a window around the place where the pixel
is believed to be in frame j: W x W values, W = 2 radius + 1 (RAFT, section 3.2; DROID-SLAM, 3.1).

:class:`CorrelationVolume` keeps all values of its edges: right where the same edges are read many
times. :class:`OnTheFlyCorrelation` keeps features only, so that its memory grows with frames and not
with edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megasam_shared.errors import MegasamError

from megasam_server.models.gpu_kernels import kernels_for

LEVELS = 4
RADIUS = 3  # of DROID; RAFT reads windows of radius 4
LOOKUP_CHANNELS = LEVELS * (2 * RADIUS + 1) ** 2

# sqrt of the scale of C: each side is divided by 4, which is exact in any float type and keeps
# float16 sums away from overflow.
_FEATURE_SCALE = 0.25

_ALIGNED_ROWS = 8

CORRELATION_SCRATCH = 256 * 2**20
"""Bytes that :class:`OnTheFlyCorrelation` takes for the values of the edges in work."""


def feature_pyramid(fmaps: torch.Tensor) -> list[torch.Tensor]:
    """The features at all levels, scaled for correlation.

    Averaging is linear, so the volume at level l is the correlation with the features at level l:
    the large volume need not be read again to be pooled.

    Args:
        fmaps: [N,C,h,w].

    Returns:
        Per level l [N,C,h >> l,w >> l] in the dtype of ``fmaps``; the averages run in float32.

    Raises:
        MegasamError: ``image_too_small``, h or w is less than 8 (64 pixels of the image).
    """
    height, width = fmaps.shape[-2:]
    smallest = 1 << (LEVELS - 1)
    if min(height, width) < smallest:
        raise MegasamError(
            "image_too_small",
            f"The frames are {8 * width}x{8 * height} pixels where the camera is tracked; the network "
            f"needs {8 * smallest} pixels on each side.",
            "Raise the tracking resolution, or crop the plate less narrowly.",
        )
    level = _FEATURE_SCALE * fmaps.float()  # [N,C,h,w]
    pyramid = [level.to(fmaps.dtype)]
    for _ in range(1, LEVELS):
        level = F.avg_pool2d(level, kernel_size=2)  # [N,C,h >> l,w >> l]
        pyramid.append(level.to(fmaps.dtype))
    return pyramid


def sample_windows(
    volume: torch.Tensor, coords: torch.Tensor, level: int, radius: int
) -> torch.Tensor:
    """The values in the window around each place, bilinear, zero outside; plain torch.

    All samples of a pixel have the same fraction, so a window of whole pixels, one larger, is
    gathered once and blended along x, then along y.

    Args:
        volume: [E,h,w,a,b], one level.
        coords: [E,h,w,2], (x, y) at level 0, pixel centres at integers.
        level: of ``volume``; places are divided by 2^level.
        radius: of the window, W = 2 radius + 1.

    Returns:
        [E,h,w,W*W] in the volume's dtype; index W*i + j is the offset (i - radius, j - radius) in
        (x, y).
    """
    rows, columns = volume.shape[3:]
    places = coords.float() / 2**level  # [E,h,w,2]
    whole = places.floor()  # [E,h,w,2]
    dx, dy = (places - whole)[..., None, None].unbind(3)  # [E,h,w,1,1] each
    reach = torch.arange(-radius, radius + 2, device=volume.device)  # [W+1]
    u = whole[..., 0:1] + reach  # [E,h,w,W+1]
    v = whole[..., 1:2] + reach  # [E,h,w,W+1]
    outside_u = (u < 0) | (u > columns - 1)  # [E,h,w,W+1]
    outside_v = (v < 0) | (v > rows - 1)  # [E,h,w,W+1]
    u = u.clamp(0, columns - 1).long()
    v = v.clamp(0, rows - 1).long()
    at = v[..., None, :] * columns + u[..., :, None]  # [E,h,w,W+1,W+1] (x, y)
    around = volume.flatten(3).gather(3, at.flatten(3)).view_as(at).float()
    outside = outside_u[..., :, None] | outside_v[..., None, :]  # [E,h,w,W+1,W+1]
    around = around.masked_fill(outside, 0.0)
    around = torch.lerp(around[..., :-1, :], around[..., 1:, :], dx)  # [E,h,w,W,W+1]
    around = torch.lerp(around[..., :-1], around[..., 1:], dy)  # [E,h,w,W,W]
    return around.flatten(3).to(volume.dtype)  # [E,h,w,W*W]


class CorrelationVolume:
    """The correlation of every edge at all levels, kept.

    Args:
        fmaps_i: [E,C,h,w], features of each edge's source frame.
        fmaps_j: [E,C,h,w], of its target frame, same dtype. The volume is stored in that dtype:
            with float16, 25 MB for an edge at 48x64.
        radius: of the windows that are read.

    Raises:
        MegasamError: ``image_too_small``, see :func:`feature_pyramid`.
    """

    def __init__(self, fmaps_i: torch.Tensor, fmaps_j: torch.Tensor, radius: int = RADIUS) -> None:
        self.radius = radius
        targets = [_Rows.of(level) for level in feature_pyramid(fmaps_j)]
        self.levels = _volume_levels(_Rows.of(_FEATURE_SCALE * fmaps_i), targets)

    @classmethod
    def of_levels(cls, levels: list[torch.Tensor], radius: int = RADIUS) -> CorrelationVolume:
        """From the finished volume: per level l [E,h,w,h >> l,w >> l]."""
        volume = cls.__new__(cls)
        volume.radius, volume.levels = radius, levels
        return volume

    def __len__(self) -> int:
        """Number of edges."""
        return len(self.levels[0])

    def __getitem__(self, index: torch.Tensor | slice) -> CorrelationVolume:
        """The chosen edges; ``index`` is a slice, or integers or bool [E]."""
        return self.of_levels([level[index] for level in self.levels], self.radius)

    def cat(self, other: CorrelationVolume) -> CorrelationVolume:
        """These edges, then the edges of ``other``."""
        pairs = zip(self.levels, other.levels, strict=True)
        return self.of_levels([torch.cat(pair) for pair in pairs], self.radius)

    def lookup(self, coords: torch.Tensor, padding: int = 0) -> torch.Tensor:
        """The windows around ``coords``, channels last in memory.

        Args:
            coords: [E,h,w,2], (x, y) in frame j at 1/8 scale, pixel centres at integers. Places
                outside the image read zeros.
            padding: number of zero channels after the last window.

        Returns:
            [E,4*W*W + padding,h,w] in the volume's dtype; channel W*W*l + W*a + b is
            level l at the offset (a - radius, b - radius) in (x, y).
        """
        if kernels := kernels_for(*self.levels, coords, learnable=not coords.requires_grad):
            return kernels.lookup_windows(self.levels, coords, self.radius, padding)
        windows = [
            sample_windows(volume, coords, level, self.radius)
            for level, volume in enumerate(self.levels)
        ]  # each [E,h,w,W*W]
        if padding:
            windows.append(windows[0].new_zeros(*coords.shape[:3], padding))
        return torch.cat(windows, dim=-1).permute(0, 3, 1, 2)  # [E,4*W*W + padding,h,w]


@dataclass(frozen=True)
class _Rows:
    """Features [N,C,a,b] as matrices whose rows are pixels, some rows of zeros behind the last.

    Matrix units want sides in multiples of 8, which few grids have: for other sides the libraries
    fall back to their kernels for unaligned rows.

    Attributes:
        values: [N,R,C], R >= a*b.
        size: a, b.
    """

    values: torch.Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, features: torch.Tensor) -> _Rows:
        rows = features.flatten(2).transpose(1, 2)  # [N,a*b,C]
        missing = -rows.shape[1] % _ALIGNED_ROWS
        return cls(F.pad(rows, (0, 0, 0, missing)).contiguous(), tuple(features.shape[2:]))

    def __getitem__(self, index: torch.Tensor) -> _Rows:
        return _Rows(self.values[index], self.size)


def _volume_levels(source: _Rows, targets: list[_Rows]) -> list[torch.Tensor]:
    """Products of scaled features of E frames and of those of E others at all levels, per level
    [E,h,w,a,b]; in memory a pixel's values may have a gap behind them."""
    height, width = source.size
    levels = []
    for target in targets:
        rows, columns = target.size
        volume = torch.bmm(source.values, target.values.mT)  # [E,R,R']
        volume = volume[:, : height * width, : rows * columns]
        levels.append(volume.unflatten(2, (rows, columns)).unflatten(1, (height, width)))
    return levels


class OnTheFlyCorrelation:
    """The same values without a kept volume: formed for a few edges, read, and dropped.

    In half precision on a GPU only the values around the windows are formed. Elsewhere all are: by
    matrix multiplication that costs less than the memory traffic of gathering 8x8 feature vectors
    per pixel, although most values are not read.

    Args:
        fmaps: [N,C,h,w], features of all frames.
        scratch_bytes: most memory for the values of the edges in work; at least one edge is formed.

    Raises:
        MegasamError: ``image_too_small``, see :func:`feature_pyramid`.
    """

    def __init__(self, fmaps: torch.Tensor, scratch_bytes: int = CORRELATION_SCRATCH) -> None:
        self._pyramid = [_Rows.of(level) for level in feature_pyramid(fmaps)]
        self._scratch_bytes = scratch_bytes

    def lookup(self, coords: torch.Tensor, ii: torch.Tensor, jj: torch.Tensor) -> torch.Tensor:
        """The windows of edges ii -> jj; as :meth:`CorrelationVolume.lookup`.

        Args:
            coords: [E,h,w,2].
            ii, jj: [E], int64, indices into the frames.

        Returns:
            [E,196,h,w] in the features' dtype.

        """
        features = self._pyramid[0].values
        windows = features.new_empty(*coords.shape[:3], LOOKUP_CHANNELS)
        by_kernels = features.itemsize == 2 and kernels_for(features, coords) is not None
        write = self._write_formed_nearby if by_kernels else self._write_from_volumes
        write(coords, ii, jj, windows)
        return windows.permute(0, 3, 1, 2)  # [E,196,h,w]

    def _write_formed_nearby(
        self, coords: torch.Tensor, ii: torch.Tensor, jj: torch.Tensor, windows: torch.Tensor
    ) -> None:
        from megasam_server.models import triton_windows  # needs Triton

        height, width = self._pyramid[0].size
        edge_bytes = triton_windows.value_bytes(height * width, RADIUS, windows.itemsize)
        levels, sizes = zip(*((level.values, level.size) for level in self._pyramid), strict=True)
        for part in self._parts(len(ii), edge_bytes):
            triton_windows.write_windows(
                levels, sizes, coords[part], ii[part], jj[part], RADIUS, windows[part]
            )

    def _write_from_volumes(
        self, coords: torch.Tensor, ii: torch.Tensor, jj: torch.Tensor, windows: torch.Tensor
    ) -> None:
        features = self._pyramid[0]
        height, width = features.size
        edge_bytes = (height * width) ** 2 * windows.itemsize * 4 // 3  # 1 + 1/4 + ...
        for part in self._parts(len(ii), edge_bytes):
            levels = _volume_levels(features[ii[part]], [x[jj[part]] for x in self._pyramid])
            found = CorrelationVolume.of_levels(levels).lookup(coords[part])  # [E',196,h,w]
            windows[part] = found.permute(0, 2, 3, 1)

    def _parts(self, edges: int, edge_bytes: int) -> Iterator[slice]:
        """The edges, as many at a time as have room."""
        at_once = max(1, self._scratch_bytes // edge_bytes)
        return (slice(start, start + at_once) for start in range(0, edges, at_once))
