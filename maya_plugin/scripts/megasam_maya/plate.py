"""What the artist's plate is: a movie or a sequence, its size, range, rate and missing frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.file_names import safe_name
from megasam_shared.sequence import find_sequence, is_movie

from megasam_maya.picture_header import Header, read_header


@dataclass(frozen=True)
class Plate:
    """A plate as it lies on disk.

    Attributes:
        path: what the artist named. folder: where the files lie.
        label: file name of a movie, pattern of a sequence.
        name: for folders and camera names.
        first, last: frame numbers, a movie's count from 1; None for a movie that does not say.
        count: frames that are there; None as above.
        missing: frame numbers absent between first and last.
        width, height: pixels; 0 where the header is not read.
        fps: frames per second; None where the files do not say.
    """

    path: Path
    folder: Path
    label: str
    name: str
    is_movie: bool
    first: int | None
    last: int | None
    count: int | None
    missing: tuple[int, ...] = ()
    width: int = 0
    height: int = 0
    fps: float | None = None

    @property
    def summary(self) -> str:
        """``1920 x 1080 · 1001-1120 (120 frames) · 24 fps``."""
        size = f"{self.width} x {self.height}" if self.width else "size read when solving"
        if self.count is None:
            span = "length read when solving"
        else:
            span = f"{self.first}-{self.last} ({self.count} frames)"
        rate = f"{self.fps:.6g} fps" if self.fps else "fps unknown"
        return " · ".join([size, span, rate])

    @property
    def missing_text(self) -> str:
        """``3 frames missing: 1004, 1007-1008``; empty when none is."""
        if not self.missing:
            return ""
        runs = _runs(self.missing)
        shown = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:4])
        noun = "frame" if len(self.missing) == 1 else "frames"
        return f"{len(self.missing)} {noun} missing: {shown}{' ...' if len(runs) > 4 else ''}"


def inspect_plate(path: Path) -> Plate:
    """Look at names and headers of a plate; opens one file of it, decodes none.

    Raises:
        MegasamError: of :func:`megasam_shared.sequence.find_sequence`.
    """
    if is_movie(path) and path.is_file():
        return _movie(path)
    if is_movie(path):
        raise MegasamError(
            "plate_not_found", f"There is no movie {path}.", "Check the path of the plate."
        )
    sequence = find_sequence(path)
    header = read_header(sequence.files[0]) or Header(0, 0)
    return Plate(
        path=path,
        folder=sequence.files[0].absolute().parent,
        label=sequence.pattern,
        name=safe_name(sequence.name),
        is_movie=False,
        first=sequence.frames[0],
        last=sequence.frames[-1],
        count=len(sequence.frames),
        missing=tuple(sequence.missing),
        width=header.width,
        height=header.height,
        fps=header.fps,
    )


def _movie(path: Path) -> Plate:
    header = read_header(path) or Header(0, 0)
    return Plate(
        path=path,
        folder=path.absolute().parent,
        label=path.name,
        name=safe_name(path.stem),
        is_movie=True,
        first=1 if header.frames else None,
        last=header.frames,
        count=header.frames,
        width=header.width,
        height=header.height,
        fps=header.fps,
    )


def _runs(numbers: tuple[int, ...]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, last) of each run without gaps."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
