"""The size at which the dense tracker sees the plate, and what changes with it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from megasam_shared.errors import MegasamError

from megasam_server.geometry.nearest_resize import resized_nearest

MULTIPLE = 8
"""The networks work at an eighth of the resolution."""

LEAST_SIDE = 128
"""Below it the coarsest level of the correlation pyramid is a single pixel wide."""


@dataclass(frozen=True)
class FrameSize:
    """From the plate to the tracker: resized, then cropped at the right and the bottom.

    Attributes:
        plate: width and height of the plate, pixels.
        resized: width and height after resizing.
        cropped: what the tracker sees: ``resized`` down to multiples of 8.
    """

    plate: tuple[int, int]
    resized: tuple[int, int]
    cropped: tuple[int, int]

    @classmethod
    def of_plate(cls, width: int, height: int, resolution: int = 384) -> FrameSize:
        """The plate's aspect, with the area of a 4:3 picture ``resolution`` pixels high.

        Raises:
            MegasamError: ``frame_too_narrow``.
        """
        factor = _factor(width, height, resolution)
        resized = int(width * factor), int(height * factor)
        cropped = resized[0] // MULTIPLE * MULTIPLE, resized[1] // MULTIPLE * MULTIPLE
        _check_sides((width, height), cropped)
        return cls((width, height), resized, cropped)

    @classmethod
    def of_whole_plate(cls, width: int, height: int, resolution: int = 384) -> FrameSize:
        """The same area with nothing cropped: each side is the nearest multiple of 8.

        So masks and depth cover the whole plate. Its pixels are up to a few per cent wider or
        higher than square, which the intrinsics know.

        Raises:
            MegasamError: ``frame_too_narrow``.
        """
        factor = _factor(width, height, resolution)
        across, down = (round(side * factor / MULTIPLE) * MULTIPLE for side in (width, height))
        _check_sides((width, height), (across, down))
        return cls((width, height), (across, down), (across, down))

    def image(self, plate_frame: np.ndarray) -> np.ndarray:
        """uint8 [H,W,3] of the plate -> uint8 [h,w,3], averaged over areas, cropped."""
        return self._crop(cv2.resize(plate_frame, self.resized, interpolation=cv2.INTER_AREA))

    def depth(self, depth: np.ndarray) -> np.ndarray:
        """Depth [a,b] of the whole picture at any resolution -> [h,w], nearest pixel, cropped."""
        return self._crop(resized_nearest(depth, *self.resized))

    def intrinsics(self, plate_intrinsics: np.ndarray) -> np.ndarray:
        """fx, fy, cx, cy [...,4] of the plate -> of the tracker's picture.

        Pixel corners at integers. Cropping at the right and the bottom moves no principal point.
        """
        x, y = self.resized[0] / self.plate[0], self.resized[1] / self.plate[1]
        return plate_intrinsics * np.array([x, y, x, y])

    def _crop(self, picture: np.ndarray) -> np.ndarray:
        width, height = self.cropped
        return picture[:height, :width]


def _factor(width: int, height: int, resolution: int) -> float:
    return float(np.sqrt(resolution * (resolution * 4 / 3) / (height * width)))


def _check_sides(plate: tuple[int, int], size: tuple[int, int]) -> None:
    if min(size) < LEAST_SIDE:
        raise MegasamError(
            "frame_too_narrow",
            f"A plate of {plate[0]}x{plate[1]} becomes {size[0]}x{size[1]} for the tracker, "
            f"which needs {LEAST_SIDE} pixels on each side.",
            "Raise tracking_resolution, or crop the plate.",
        )
