"""How well the tracks determine the focal length: solve again with it held at a range of values."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from megasam_shared.quality import FocalProfile

from megasam_server.tracking.reconstruction import Reconstruction

_RATIOS = (1.05, 1.12, 1.25, 1.45, 1.75), (0.95, 0.89, 0.8, 0.69, 0.57)
# Focal lengths whose error is within 2 % of the best cannot be told from it: noise alone moves the error as much.
_INDISTINCT = 1.02
_TRUSTED_WIDTH = 0.12
_POINTS = 1000


def profile_focal(
    model: Reconstruction, plate_scale: float, report: Callable[[int, int], None]
) -> tuple[FocalProfile, Reconstruction | None]:
    """Robust error of the model at fixed focal lengths round the solved one.

    Args:
        model: a solved reconstruction; not changed.
        plate_scale: plate pixels per pixel of the model.
        report: called with (values done, values).

    Returns:
        the profile in plate pixels, and the model at the best fixed value where that beats the solved one clearly
        (the adjustment had stopped in a side valley); otherwise None.
    """
    total = 1 + sum(map(len, _RATIOS))
    start = float(np.median(model.scene.focal))
    # Everywhere the same observations, or the errors could not be compared.
    solved = _held_at(model, 1.0)
    results = {1.0: _rms(solved)}
    best, best_rms = None, results[1.0] * 0.98
    for branch in _RATIOS:
        current = solved
        for ratio in branch:
            current = _held_at(current, ratio * start / float(np.median(current.scene.focal)))
            results[ratio] = _rms(current)
            if results[ratio] < best_rms:
                best, best_rms = current, results[ratio]
            report(len(results), total)
    ratios = np.array(sorted(results))
    rms = np.array([results[r] for r in ratios])
    low, high = _interval(np.log(ratios), rms)
    profile = FocalProfile(
        focal_px=[float(r * start * plate_scale) for r in ratios],
        rms_px=[float(r * plate_scale) for r in rms],
        interval_px=(
            float(np.exp(low) * start * plate_scale),
            float(np.exp(high) * start * plate_scale),
        ),
        observable=bool(high - low < 2 * _TRUSTED_WIDTH),
    )
    return profile, best


def thinned(model: Reconstruction, frames: Iterable[int]) -> Reconstruction:
    """Some frames of a solved reconstruction and the points that they see most often: enough for a
    profile, in a fraction of the time."""
    other = Reconstruction.copy_of(model)
    other.registered = np.isin(np.arange(len(model.registered)), list(frames))
    seen = np.bincount(other.seen.point[other.used], minlength=len(other.triangulated))
    other.triangulated[np.argsort(-seen)[_POINTS:]] = False
    return other


def _held_at(model: Reconstruction, ratio: float) -> Reconstruction:
    """The model with its focal lengths multiplied by ``ratio`` and everything else adjusted."""
    other = Reconstruction.copy_of(model)
    other.scene.focal[:] *= ratio
    other.adjust(focal="fixed", iterations=8)
    return other


def _rms(model: Reconstruction) -> float:
    """Robust error, pixels: outliers count as the loss lets them."""
    squared = model.residual_px() ** 2
    c2 = model.options.loss_px**2
    return float(np.sqrt((c2 * np.log1p(squared / c2)).mean()))


def _interval(log_ratio: np.ndarray, rms: np.ndarray) -> tuple[float, float]:
    """Where the error stays indistinct from the best, by linear interpolation; the whole range where it never rises."""
    bound = rms.min() * _INDISTINCT
    lowest = int(rms.argmin())

    def crossing(indices: range) -> float:
        before = lowest
        for i in indices:
            if rms[i] > bound:
                share = (bound - rms[before]) / (rms[i] - rms[before])
                return float(log_ratio[before] + share * (log_ratio[i] - log_ratio[before]))
            before = i
        return float(log_ratio[before])

    return crossing(range(lowest - 1, -1, -1)), crossing(range(lowest + 1, len(rms)))
