"""What a plate is, whatever files it came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from megasam_shared.quality import Notice

DEFAULT_FPS = 24.0  # where no file says otherwise


@dataclass(frozen=True)
class PlateInfo:
    """A plate as the artist sees it: upright, in plate pixels, which are square.

    Attributes:
        name: file name without frame number and suffix, e.g. ``sh010_plate``.
        kind: ``movie`` or ``sequence``.
        width, height: plate pixels, after the rotation that the file asks for and after stretching
            non-square pixels to square ones.
        fps: frames per second (average for variable frame rate).
        frame_numbers: [N] number of each frame as in its file name; movies count from 1.
        times: [N] seconds of each frame since the first one.
        files: [N] file name of each frame of a sequence; one entry for a movie.
        missing: frame numbers absent between the first and the last one.
        warnings: what the artist should know about the files, e.g. that they are interlaced.
    """

    name: str
    kind: Literal["movie", "sequence"]
    width: int
    height: int
    fps: float
    frame_numbers: list[int]
    times: list[float]
    files: list[str]
    missing: list[int]
    warnings: list[Notice] = field(default_factory=list)

    @property
    def num_frames(self) -> int:
        return len(self.frame_numbers)


class PlateReader(Protocol):
    """Reads one kind of file. Frame numbers are ascending; ranges include both ends."""

    kind: Literal["movie", "sequence"]
    name: str
    frame_numbers: list[int]

    def info(self, first: int, last: int) -> PlateInfo:
        """The plate from frame ``first`` to ``last``; raises MegasamError if one is missing."""

    def frames(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Display-referred uint8 [H,W,3] RGB, upright, square pixels; alpha is left out."""

    def pictures(self, first: int, last: int) -> Iterator[np.ndarray]:
        """The values as stored, [H,W,3] RGB or [H,W,4] RGB and alpha, upright, square pixels.

        Integers span the range of their type, floats are scene-linear.
        """


@dataclass(frozen=True)
class Plate:
    """The frames that are to be solved. Iterating reads them one at a time, as often as wanted.

    Each is uint8 [H,W,3] RGB, display-referred, upright, of size ``info.height`` x ``info.width``.
    """

    info: PlateInfo
    reader: PlateReader

    def __iter__(self) -> Iterator[np.ndarray]:
        numbers = self.info.frame_numbers
        return self.reader.frames(numbers[0], numbers[-1])

    def __len__(self) -> int:
        return self.info.num_frames
