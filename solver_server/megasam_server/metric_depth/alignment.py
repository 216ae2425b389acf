"""One scale and shift that turn the relative disparity of a clip into metric inverse depth.

Depth Anything sees shapes well, but in unknown units and with an unknown zero; UniDepth sees metres,
less sharply. MegaSaM aligns the first to the second with one pair for the whole clip, so that the
depth prior does not flicker, and divides by a norm so that the tracker meets depths around 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from megasam_shared.errors import MegasamError

from megasam_server.geometry.nearest_resize import resized_nearest
from megasam_server.metric_depth.streamed_percentile import streamed_percentile

SKY_DISPARITY = 0.01
"""Disparity of Depth Anything below which a pixel is sky."""

NORM_PERCENTILE = 98.0
NORM_DISPARITY = 2.0
"""The tracker's unit of length: the 98th percentile of its disparities is 2."""

NEAREST, FARTHEST = 1e-2, 1e4
"""Depths that the tracker is given, in its own unit; nearer ones count as unknown."""

SAMPLES_PER_FRAME = 1 << 14
LEAST_SAMPLES = 256
HUBER = 1.345
"""Tuning constant of Huber's weights, in standard deviations: 95 % efficient on Gaussian noise."""


@dataclass(frozen=True)
class ClipAlignment:
    """From relative disparity d to depth, the same for all frames of the clip.

    Attributes:
        scale, shift: inverse depth = scale * d + shift, in 1/metres when ``metric``.
        norm: inverse depth that is 1 in the tracker: tracker depth = depth * norm.
        metric: lengths are metres; else their unit is unknown.
    """

    scale: float
    shift: float
    norm: float
    metric: bool

    @property
    def metres_per_unit(self) -> float | None:
        """Length of the tracker's unit in metres; None when no metric depth was seen."""
        return 1.0 / self.norm if self.metric else None

    def tracker_depth(self, disparity: np.ndarray) -> np.ndarray:
        """Depth in the tracker's unit, same shape and dtype as ``disparity``; 0 = unknown."""
        inverse = (self.scale * disparity + self.shift) / self.norm
        with np.errstate(divide="ignore"):
            depth = np.clip(1.0 / inverse, 0.0, FARTHEST)  # also takes negative ones to 0
        depth[depth < NEAREST] = 0.0
        return depth.astype(disparity.dtype, copy=False)


def align_clip(
    disparities: Sequence[np.ndarray],
    metric_depths: Mapping[int, np.ndarray],
    reference_quirks: bool = False,
) -> ClipAlignment:
    """Align a clip's disparities to metric depth of some or all of its frames.

    All frames with metric depth are fitted together, by least squares with Huber's weights, on
    pixels that are not sky. With ``reference_quirks`` as MegaSaM's demo does it: the closed form of
    each frame, sky included, then one frame's pair for all.

    Args:
        disparities: one float32 [h,w] per frame, >= 0, larger is nearer. Gone through several
            times; a memory-mapped array will do.
        metric_depths: depth in metres, float32 [H,W], by frame index.

    Raises:
        MegasamError: ``depth_alignment_failed``: the two do not agree, or there is too little to
            compare.
        ValueError: no frame has metric depth.
    """
    if not metric_depths:
        raise ValueError("no metric depth to align to")
    fit = _reference_fit if reference_quirks else _joint_fit
    scale, shift = fit(disparities, metric_depths)
    norm = _norm(disparities if reference_quirks else _Thinned(disparities), scale, shift)
    # The reference lets nonsense pass, and parity is what it is asked for.
    if not reference_quirks and not (scale > 0 and norm > 0 and isfinite(norm)):
        raise MegasamError(
            "depth_alignment_failed",
            "The relative and the metric depth of this clip contradict each other: what is nearer in "
            "one is farther in the other.",
            "Solve without metric depth; the camera is found all the same, only its scale is not.",
        )
    return ClipAlignment(scale, shift, norm, metric=True)


def relative_alignment(disparities: Sequence[np.ndarray]) -> ClipAlignment:
    """Without metric depth: disparity itself is taken for inverse depth in an unknown unit.

    Raises:
        MegasamError: ``depth_alignment_failed``: every pixel is at infinity.
    """
    norm = _norm(_Thinned(disparities), 1.0, 0.0)
    if norm <= 0:
        raise MegasamError(
            "depth_alignment_failed",
            "The depth network sees nothing but sky in this clip.",
            "Check that the plate is decoded as it should look.",
        )
    return ClipAlignment(1.0, 0.0, norm, metric=False)


def focal_from_fov(fov_degrees: Sequence[float], width: float) -> float:
    """Focal length in pixels of a picture ``width`` pixels wide, from the median of the frames'
    horizontal fields of view, degrees.
    """
    return width / (2 * np.tan(np.radians(np.median(fov_degrees)) / 2))


class _Thinned:
    """An even grid of the pixels of each frame: enough to set a unit of length."""

    def __init__(self, disparities: Sequence[np.ndarray]) -> None:
        self._disparities = disparities

    def __iter__(self) -> Iterator[np.ndarray]:
        for disparity in self._disparities:
            step = max(1, int((disparity.size / SAMPLES_PER_FRAME) ** 0.5))
            yield disparity[::step, ::step]


def _norm(disparities: Iterable[np.ndarray], scale: float, shift: float) -> float:
    percent = NORM_PERCENTILE if scale > 0 else 100 - NORM_PERCENTILE
    return (scale * streamed_percentile(disparities, percent) + shift) / NORM_DISPARITY


def _joint_fit(
    disparities: Sequence[np.ndarray], metric_depths: Mapping[int, np.ndarray]
) -> tuple[float, float]:
    samples = [_samples(disparities[i], depth) for i, depth in metric_depths.items()]
    d, inverse = np.concatenate(samples, axis=1)
    if d.size < LEAST_SAMPLES or np.ptp(d) == 0:
        raise MegasamError(
            "depth_alignment_failed",
            "Too few pixels are at a finite distance to find the scale of this clip.",
            "Solve without metric depth; the camera is found all the same, only its scale is not.",
        )
    return robust_line(d, inverse)


def _samples(disparity: np.ndarray, metric_depth: np.ndarray) -> np.ndarray:
    """Disparity and inverse depth at an even grid of pixels that are not sky, float64 [2,M]."""
    height, width = metric_depth.shape
    shrink = max(1.0, (height * width / SAMPLES_PER_FRAME) ** 0.5)
    size = max(1, int(width / shrink)), max(1, int(height / shrink))
    d = resized_nearest(disparity, *size).astype(np.float64).ravel()
    depth = resized_nearest(metric_depth, *size).astype(np.float64).ravel()
    usable = (d > SKY_DISPARITY) & (depth > 0) & np.isfinite(depth) & np.isfinite(d)
    return np.stack([d[usable], 1 / depth[usable]])


def robust_line(x: np.ndarray, y: np.ndarray, iterations: int = 30) -> tuple[float, float]:
    """Slope and offset of y = slope * x + offset, float64 [M], M >= 2 and x not all the same.

    Begins with the median slope from the lower half of x to the upper (Theil 1950), which a quarter
    of wrong pixels do not upset, then least squares with Huber's weights, the deviation estimated
    anew each time (Huber 1981).
    """
    order = np.argsort(x)
    half = x.size // 2
    low, high = order[:half], order[-half:]
    rising = x[high] > x[low]
    slope = np.median((y[high] - y[low])[rising] / (x[high] - x[low])[rising])
    offset = np.median(y - slope * x)
    for _ in range(iterations):
        residual = np.abs(y - (slope * x + offset))
        sigma = 1.4826 * np.median(residual)
        weight = np.minimum(1.0, HUBER * sigma / np.maximum(residual, np.finfo(float).tiny))
        if not weight.any():  # more than half of the pixels fit exactly
            break
        before = slope, offset
        mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
        slope = np.sum(weight * (x - mean_x) * (y - mean_y)) / np.sum(weight * (x - mean_x) ** 2)
        offset = mean_y - slope * mean_x
        if np.allclose((slope, offset), before, rtol=1e-7, atol=0):
            break
    return float(slope), float(offset)


def _reference_fit(
    disparities: Sequence[np.ndarray], metric_depths: Mapping[int, np.ndarray]
) -> tuple[float, float]:
    """The demo's pair: that of the frame whose scale * shift is the median one."""
    fits = np.array([reference_frame_fit(disparities[i], z) for i, z in metric_depths.items()])
    product = fits[:, 0] * fits[:, 1]
    chosen = np.argmin(np.abs(product - np.median(product)))
    return float(fits[chosen, 0]), float(fits[chosen, 1])


def reference_frame_fit(disparity: np.ndarray, metric_depth: np.ndarray) -> tuple[float, float]:
    """Scale and shift of one frame as MegaSaM's demo finds them.

    The demo means to leave out the sky where it fills more than half of the picture, and then
    overwrites that result: where it does, the median disparity is 0 and the scale is noise.
    """
    height, width = metric_depth.shape
    d = resized_nearest(disparity, width, height)
    inverse = 1.0 / (metric_depth + 1e-8)
    inverse[(metric_depth < 2.0) & (d < 0.02)] = 1e-2  # sky that UniDepth holds for near
    slope = (inverse - np.median(inverse) + 1e-8) / (d - np.median(d) + 1e-8)
    scale = np.median(slope)
    return scale, np.median(inverse - scale * d)
