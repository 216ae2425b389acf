"""Turn pictures upright the way their file asks for."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """What to do to a stored picture so that it stands upright, in this order.

    Attributes:
        transpose: swap rows and columns.
        flip_x, flip_y: then mirror left-right, top-bottom.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The upright picture; [H,W,C] of any type, contiguous."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.flip_x:
            picture = picture[:, ::-1]
        if self.flip_y:
            picture = picture[::-1]
        return np.ascontiguousarray(picture)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the upright picture."""
        return (height, width) if self.transpose else (width, height)


UPRIGHT = Orientation()

_BY_EXIF = {
    1: UPRIGHT,
    2: Orientation(flip_x=True),
    3: Orientation(flip_x=True, flip_y=True),
    4: Orientation(flip_y=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_x=True),
    7: Orientation(transpose=True, flip_x=True, flip_y=True),
    8: Orientation(transpose=True, flip_y=True),
}


def from_exif(value: int) -> Orientation:
    """EXIF tag 0x0112; values outside 1-8 mean nothing and are taken as upright."""
    return _BY_EXIF.get(value, UPRIGHT)


def from_display_matrix(matrix: bytes) -> Orientation:
    """The display matrix of a movie (ISO/IEC 14496-12, 8.3.2; nine int32 as FFmpeg stores them).

    A stored pixel (x, y) is shown at (a x + c y, b x + d y). Players know quarter turns and mirror
    images only, and so does this: the larger diagonal decides.
    """
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(flip_x=a < 0, flip_y=d < 0)
    return Orientation(transpose=True, flip_x=c < 0, flip_y=b < 0)
