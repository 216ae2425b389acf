"""Correlation of two feature maps: every pixel of frame i against every pixel of frame j.

C[y,x,v,u] = <f_i[y,x], f_j[v,u]> / 16, at four levels: level l is frame j averaged over 2^l x 2^l
pixels. An update reads, per pixel and level, the 7x7 values around the place where the pixel is
believed to be in frame j (RAFT, section 3.2; DROID-SLAM, section 3.1).

:class:`CorrelationVolume` keeps all values of its edges: right where the same edges are read many
times. :class:`OnTheFlyCorrelation` keeps features only, so that its memory grows with frames and not
with edges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megasam_shared.errors import MegasamError

from megasam_server.models.gpu_kernels import kernels_for

LEVELS = 4
RADIUS = 3
WINDOW = 2 * RADIUS + 1
LOOKUP_CHANNELS = LEVELS * WINDOW * WINDOW

# sqrt of the scale of C: each side is divided by 4, which is exact in any float type and keeps
# float16 sums away from overflow.
_FEATURE_SCALE = 0.25

_SCRATCH_BYTES = 256 * 2**20


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


def sample_windows(volume: torch.Tensor, coords: torch.Tensor, level: int) -> torch.Tensor:
    """The 7x7 values around each place, bilinear, zero outside; plain torch.

    All 49 samples of a pixel have the same fraction, so an 8x8 window of whole pixels is gathered
    once and blended along x, then along y.

    Args:
        volume: [E,h,w,a,b], one level.
        coords: [E,h,w,2], float32, (x, y) at level 0, pixel centres at integers.
        level: of ``volume``; places are divided by 2^level.

    Returns:
        [E,h,w,49] in the volume's dtype; index 7*i + j is the offset (i - 3, j - 3) in (x, y).
    """
    edges, height, width, rows, columns = volume.shape
    places = coords.to(torch.float32) / 2**level  # [E,h,w,2]
    whole = places.floor()  # [E,h,w,2]
    fraction = places - whole  # [E,h,w,2]
    reach = torch.arange(-RADIUS, RADIUS + 2, device=volume.device, dtype=torch.float32)  # [8]
    u = whole[..., 0:1] + reach  # [E,h,w,8]
    v = whole[..., 1:2] + reach  # [E,h,w,8]
    inside_u = (u >= 0) & (u <= columns - 1)  # [E,h,w,8]
    inside_v = (v >= 0) & (v <= rows - 1)  # [E,h,w,8]
    u = u.clamp(0, columns - 1).long()
    v = v.clamp(0, rows - 1).long()
    at = (v[..., None, :] * columns + u[..., :, None]).flatten(3)  # [E,h,w,64], x-major
    inside = (inside_u[..., :, None] & inside_v[..., None, :]).flatten(3)  # [E,h,w,64]
    around = volume.flatten(3).gather(3, at)  # [E,h,w,64]
    around = around.to(torch.float32).masked_fill(~inside, 0.0)
    around = around.unflatten(3, (WINDOW + 1, WINDOW + 1))  # [E,h,w,8,8] (x, y)
    dx = fraction[..., 0, None, None]  # [E,h,w,1,1]
    dy = fraction[..., 1, None, None]  # [E,h,w,1,1]
    around = torch.lerp(around[..., :-1, :], around[..., 1:, :], dx)  # [E,h,w,7,8]
    around = torch.lerp(around[..., :-1], around[..., 1:], dy)  # [E,h,w,7,7]
    return around.flatten(3).to(volume.dtype)  # [E,h,w,49]


class CorrelationVolume:
    """The correlation of every edge at all levels, kept.

    Args:
        fmaps_i: [E,C,h,w], features of each edge's source frame.
        fmaps_j: [E,C,h,w], of its target frame, same dtype. The volume is stored in that dtype:
            with float16, 25 MB for an edge at 48x64.

    Raises:
        MegasamError: ``image_too_small``, see :func:`feature_pyramid`.
    """

    def __init__(self, fmaps_i: torch.Tensor, fmaps_j: torch.Tensor) -> None:
        edges, channels, height, width = fmaps_i.shape
        source = (_FEATURE_SCALE * fmaps_i).flatten(2).transpose(1, 2)  # [E,h*w,C]
        self.levels: list[torch.Tensor] = []  # each [E,h,w,h >> l,w >> l]
        for target in feature_pyramid(fmaps_j):  # [E,C,a,b]
            volume = torch.bmm(source, target.flatten(2))  # [E,h*w,a*b]
            self.levels.append(volume.view(edges, height, width, *target.shape[-2:]))

    @classmethod
    def _of(cls, levels: list[torch.Tensor]) -> CorrelationVolume:
        volume = cls.__new__(cls)
        volume.levels = levels
        return volume

    def __len__(self) -> int:
        """Number of edges."""
        return len(self.levels[0])

    def __getitem__(self, index: torch.Tensor | slice) -> CorrelationVolume:
        """The chosen edges; ``index`` is a slice, or integers or bool [E]."""
        return self._of([level[index] for level in self.levels])

    def cat(self, other: CorrelationVolume) -> CorrelationVolume:
        """These edges, then the edges of ``other``."""
        pairs = zip(self.levels, other.levels, strict=True)
        return self._of([torch.cat(pair) for pair in pairs])

    def lookup(self, coords: torch.Tensor) -> torch.Tensor:
        """The windows around ``coords``.

        Args:
            coords: [E,h,w,2], (x, y) in frame j at 1/8 scale, pixel centres at integers. Places
                outside the image read zeros.

        Returns:
            [E,196,h,w] in the volume's dtype, channels last in memory; channel 49*l + 7*a + b is level
            l at the offset (a - 3, b - 3) in (x, y).
        """
        if kernels := kernels_for(*self.levels, coords):
            return kernels.lookup_windows(self.levels, coords, RADIUS)
        windows = [sample_windows(volume, coords, at) for at, volume in enumerate(self.levels)]
        return torch.cat(windows, dim=-1).permute(0, 3, 1, 2)  # [E,196,h,w]


class OnTheFlyCorrelation:
    """The same values without a kept volume: formed for a few edges, read, and dropped.

    To form a value by matrix multiplication costs less than the memory traffic of gathering 8x8
    feature vectors per pixel, although most values are not read.

    Args:
        fmaps: [N,C,h,w], features of all frames.
        scratch_bytes: most memory for the volume of the edges in work; at least one edge is formed.
    """

    def __init__(self, fmaps: torch.Tensor, scratch_bytes: int = _SCRATCH_BYTES) -> None:
        self._fmaps = fmaps
        pixels = fmaps.shape[-2] * fmaps.shape[-1]
        edge_bytes = pixels * pixels * fmaps.element_size() * 4 // 3  # all levels: 1 + 1/4 + ...
        self._edges_at_once = max(1, scratch_bytes // edge_bytes)

    def lookup(self, coords: torch.Tensor, ii: torch.Tensor, jj: torch.Tensor) -> torch.Tensor:
        """The windows of edges ii -> jj; as :meth:`CorrelationVolume.lookup`.

        Args:
            coords: [E,h,w,2].
            ii, jj: [E], int64, indices into the frames.

        Returns:
            [E,196,h,w] in the features' dtype.

        Raises:
            MegasamError: ``image_too_small``, see :func:`feature_pyramid`.
        """
        edges, height, width = coords.shape[:3]
        windows = self._fmaps.new_empty(edges, height, width, LOOKUP_CHANNELS).permute(0, 3, 1, 2)
        for start in range(0, edges, self._edges_at_once):
            part = slice(start, start + self._edges_at_once)
            volume = CorrelationVolume(self._fmaps[ii[part]], self._fmaps[jj[part]])
            windows[part] = volume.lookup(coords[part])
        return windows  # [E,196,h,w]
