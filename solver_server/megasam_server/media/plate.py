"""What a plate is, whatever files it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PlateInfo:
    """A plate as the artist sees it: upright, in plate pixels.

    Attributes:
        name: file name without frame number and suffix, e.g. ``sh010_plate``.
        kind: ``movie`` or ``sequence``.
        width, height: plate pixels, after the rotation that the file asks for.
        fps: frames per second (average for variable frame rate).
        frame_numbers: [N] number of each frame as in its file name; movies count from 1.
        times: [N] seconds of each frame since the first one.
        files: [N] file name of each frame of a sequence; one entry for a movie.
        missing: frame numbers absent between the first and the last one.
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

    @property
    def num_frames(self) -> int:
        return len(self.frame_numbers)
