"""Plates that are image sequences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from megasam_shared.errors import MegasamError
from megasam_shared.quality import Notice
from megasam_shared.sequence import find_sequence

from megasam_server.media.frame_range import name_frames
from megasam_server.media.in_order import map_in_order
from megasam_server.media.plate import DEFAULT_FPS, PlateInfo
from megasam_server.media.square_pixels import square_pixels_notice
from megasam_server.media.still import StillHeader, read_header, read_still
from megasam_server.media.view_transform import (
    SceneView,
    exposure_of,
    integers_to_8bit,
    luminance_sample,
)

READ_AHEAD = 2  # frames; each may be hundreds of MiB
EXPOSURE_FRAMES = 8  # sampled over the range, first and last included


class SequenceReader:
    """Frames that are one picture file each; see ``PlateReader``.

    Args:
        path: a folder, one of the frames or a pattern, see ``find_sequence``.
        fps: frames per second; None takes the header of the first frame (EXR framesPerSecond, DPX
            frame rate) and, where it has none, 24.

    Raises:
        MegasamError: of ``find_sequence`` and ``read_header``.
    """

    kind = "sequence"

    def __init__(self, path: Path, fps: float | None = None) -> None:
        found = find_sequence(path)
        self.frame_numbers = found.frames
        self.name = found.name
        self._file_of = dict(zip(found.frames, found.files, strict=True))
        self._header = read_header(found.files[0])
        self._fps = fps or self._header.fps or DEFAULT_FPS

    def info(self, first: int, last: int) -> PlateInfo:
        """See ``PlateReader``; raises ``missing_frames`` naming the gaps."""
        missing = [n for n in range(first, last + 1) if n not in self._file_of]
        if missing:
            raise MegasamError(
                "missing_frames",
                f"{self.name} has no frame {name_frames(missing)} in the range {first}-{last}.",
                "Render or copy the missing frames, or give a range without a gap.",
            )
        numbers = list(range(first, last + 1))
        return PlateInfo(
            name=self.name,
            kind=self.kind,
            width=self._header.width,
            height=self._header.height,
            fps=self._fps,
            frame_numbers=numbers,
            times=[i / self._fps for i in range(len(numbers))],
            files=[self._file_of[n].name for n in numbers],
            missing=[],
            warnings=self._warnings(),
        )

    def frames(self, first: int, last: int) -> Iterator[np.ndarray]:
        """See ``PlateReader``; floats and film log go through one ``SceneView`` for the range."""
        if not (self._header.is_float or self._header.is_log):
            for picture in self.pictures(first, last):
                yield integers_to_8bit(picture[:, :, :3])
            return
        view = self._scene_view(first, last)
        for picture in self.pictures(first, last):
            yield view.apply(picture[:, :, :3])

    def pictures(self, first: int, last: int) -> Iterator[np.ndarray]:
        """See ``PlateReader``."""
        return self._read(range(first, last + 1))

    def _read(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """Pictures in the given order, while the next ones are read in other threads."""
        return map_in_order(self._picture, numbers, threads=READ_AHEAD, ahead=READ_AHEAD)

    def _picture(self, number: int) -> np.ndarray:
        header, picture = read_still(self._file_of[number], number)
        self._check_like_first(number, header)
        return picture

    def _check_like_first(self, number: int, header: StillHeader) -> None:
        start = self._header
        if (header.width, header.height) != (start.width, start.height):
            raise MegasamError(
                "size_changes",
                f"Frame {number} of {self.name} is {header.width} x {header.height},"
                f" but frame {self.frame_numbers[0]} is {start.width} x {start.height}.",
                "All frames of a plate must have one size.",
            )
        if (header.is_float, header.is_log) != (start.is_float, start.is_log):
            raise MegasamError(
                "encoding_changes",
                f"Frame {number} of {self.name} holds {_encoding(header)} values,"
                f" but frame {self.frame_numbers[0]} holds {_encoding(start)} ones.",
                "Write all frames of a plate in one pixel type.",
            )

    def _scene_view(self, first: int, last: int) -> SceneView:
        is_log = self._header.is_log
        sampled = np.unique(np.linspace(first, last, EXPOSURE_FRAMES).round().astype(int)).tolist()
        samples = [luminance_sample(p[:, :, :3], is_log) for p in self._read(sampled)]
        return SceneView(is_log, exposure_of(samples))

    def _warnings(self) -> list[Notice]:
        aspect = self._header.pixel_aspect
        return [square_pixels_notice(self.name, aspect)] if aspect != 1.0 else []


def _encoding(header: StillHeader) -> str:
    if header.is_float:
        return "floating point"
    return "film log" if header.is_log else "integer"
