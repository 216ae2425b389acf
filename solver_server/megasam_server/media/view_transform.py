"""Scene-linear and log pictures as display-referred 8 bit, for solving only.

Feature detectors, optical flow and depth networks expect what a person sees on a monitor: gradients
in proportion to perceived contrast. Linear values put nearly all texture of a shadow into the
lowest codes of 8 bit and let one lamp set the scale. So the picture is

1. exposed: multiplied so that the median luminance over some frames of the clip is mid-grey (0.18);
   the median hardly moves for lamps, skies and black borders (zeros do not count),
2. clipped softly: linear up to 0.6, above that exponentially towards 1, so that highlights keep
   some gradient,
3. encoded with the sRGB curve (IEC 61966-2-1).

The exposure is one number for the whole clip: a frame-by-frame exposure would make brightness
flicker, which trackers read as change. Integer files are display-referred already and are only
scaled (a DPX that calls itself linear as well: writers of video DPX do so, and nobody stores
scene-linear light in 10-bit integers); DPX with a log transfer and Cineon files are first made
linear with the Cineon formula.

All transforms are tables over 65536 codes (uint16 values or half-float bit patterns), so a frame
costs one look-up per value.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

MID_GREY = 0.18
SHOULDER = 0.6  # linear value from which highlights are compressed
LARGEST_HALF = 65504.0
BT709_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)

# Kodak Cineon, "Conversion of 10-bit log film data to 8-bit linear or video data" (1995): 0.002
# density per code, negative gamma 0.6, black at code 95, white at code 685.
CINEON_BLACK, CINEON_WHITE = 95.0, 685.0
CINEON_DENSITY_PER_CODE, CINEON_NEGATIVE_GAMMA = 0.002, 0.6


def soft_clip(linear: np.ndarray) -> np.ndarray:
    """Compress to 0-1 with continuous slope: identity below ``SHOULDER``, exponential above."""
    room = 1.0 - SHOULDER
    linear = np.maximum(linear, 0.0)
    above = np.maximum(linear - SHOULDER, 0.0)
    return np.minimum(linear, SHOULDER) + room * (1.0 - np.exp(-above / room))


def srgb_encode(linear: np.ndarray) -> np.ndarray:
    """The sRGB curve, linear 0-1 to encoded 0-1 (IEC 61966-2-1)."""
    return np.where(
        linear <= 0.0031308,
        12.92 * linear,
        1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055,
    )


def cineon_to_linear(code: np.ndarray) -> np.ndarray:
    """Cineon printing density, 10-bit codes 0-1023, to scene-linear; black 0, white 1."""
    gain = CINEON_DENSITY_PER_CODE / CINEON_NEGATIVE_GAMMA
    black = 10.0 ** ((CINEON_BLACK - CINEON_WHITE) * gain)
    return (10.0 ** ((np.asarray(code, np.float64) - CINEON_WHITE) * gain) - black) / (1.0 - black)


@lru_cache(maxsize=2)
def _linear_of_codes(is_log: bool) -> np.ndarray:
    """Scene-linear value of every code: log codes as uint16, or half floats by their bits."""
    codes = np.arange(65536, dtype=np.uint16)
    if is_log:
        return cineon_to_linear(codes * (1023.0 / 65535.0))
    return np.nan_to_num(codes.view(np.float16).astype(np.float64), posinf=LARGEST_HALF, neginf=0.0)


class SceneView:
    """The view of one clip.

    Args:
        is_log: the clip holds Cineon log in uint16; otherwise scene-linear floats.
        exposure: factor on scene-linear values, see ``exposure_of``.
    """

    def __init__(self, is_log: bool, exposure: float) -> None:
        linear = _linear_of_codes(is_log) * exposure
        self._table = np.rint(255.0 * srgb_encode(soft_clip(linear))).astype(np.uint8)
        self._is_log = is_log

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Scene-linear float (finite) or log uint16 [H,W,3] to display-referred uint8 [H,W,3]."""
        return self._table[picture if self._is_log else _half_bits(picture)]


def _half_bits(picture: np.ndarray) -> np.ndarray:
    if picture.dtype != np.float16:
        picture = np.clip(picture, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
    return picture.view(np.uint16)


def luminance_sample(picture: np.ndarray, is_log: bool, count: int = 20000) -> np.ndarray:
    """About ``count`` scene-linear luminances (BT.709 weights) on a grid; only positive ones."""
    step = max(1, int(np.sqrt(picture.shape[0] * picture.shape[1] / count)))
    sparse = np.ascontiguousarray(picture[::step, ::step])
    linear = _linear_of_codes(is_log)[sparse] if is_log else sparse.astype(np.float32)
    luminance = (linear @ BT709_LUMA).ravel()
    return luminance[luminance > 0]


def exposure_of(samples: list[np.ndarray]) -> float:
    """Factor that brings the median of the sampled luminances to mid-grey; 1 without samples."""
    pooled = np.concatenate(samples) if samples else np.empty(0)
    return MID_GREY / float(np.median(pooled)) if pooled.size else 1.0


def integers_to_8bit(picture: np.ndarray) -> np.ndarray:
    """Display-referred uint8 or uint16 scaled to uint8, rounded; black stays 0 and white 255."""
    return picture if picture.dtype == np.uint8 else cv2.convertScaleAbs(picture, alpha=255 / 65535)
