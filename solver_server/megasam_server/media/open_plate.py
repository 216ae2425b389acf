"""Open whatever the artist points at as a plate."""

from __future__ import annotations

from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.sequence import IMAGE_SUFFIXES, MOVIE_SUFFIXES, is_image, is_movie

from megasam_server.media.frame_range import select_range
from megasam_server.media.movie import MovieReader
from megasam_server.media.plate import Plate, PlateReader
from megasam_server.media.sequence import SequenceReader

MIN_FRAMES = 2  # fewer hold no motion


def open_plate(
    path: Path,
    first: int | None = None,
    last: int | None = None,
    *,
    max_frames: int | None = None,
    sequence_fps: float | None = None,
) -> Plate:
    """A plate, ready to be read; its pixels have not been looked at, except the first frame's.

    Args:
        path: a movie, a frame of a sequence, its folder, or a pattern such as ``plate.%04d.exr``.
        first, last: plate frame numbers, both included; movies count from 1. None = as it is.
        max_frames: longest range that is accepted; None = any.
        sequence_fps: frames per second of a sequence; None = its header's, else 24. Movies know
            their own.

    Raises:
        MegasamError: ``plate_not_found``, ``plate_unreadable``, ``plate_empty``,
            ``plate_not_a_sequence``, ``plate_ambiguous``, ``unsupported_format``, ``not_a_movie``,
            ``truncated_movie``, ``damaged_movie``, ``frame_unreadable``, ``missing_frames``,
            ``frame_range_outside``, ``frame_range_empty``, ``too_few_frames``, ``too_many_frames``,
            ``plate_too_small``, ``plate_too_large``. Reading frames may add ``size_changes``,
            ``encoding_changes`` and ``non_finite_pixels``.
    """
    reader = open_reader(Path(path), sequence_fps)
    first, last = select_range(reader.frame_numbers, first, last, reader.name)
    info = reader.info(first, last)
    if info.num_frames < MIN_FRAMES:
        raise MegasamError(
            "too_few_frames",
            f"{info.name} has only {info.num_frames} frame in the range; a camera is solved from"
            f" at least {MIN_FRAMES}.",
            "Give a movie or a sequence, or a longer frame range.",
        )
    if max_frames is not None and info.num_frames > max_frames:
        raise MegasamError(
            "too_many_frames",
            f"{info.name} has {info.num_frames} frames in the range, but at most {max_frames} are"
            " solved at once with these settings.",
            "Give a shorter frame range, or raise max_frames (a higher preset allows more).",
        )
    return Plate(info, reader)


def open_reader(path: Path, sequence_fps: float | None = None) -> PlateReader:
    """Reader for the kind of file that ``path`` is; raises as ``open_plate``."""
    try:
        is_file = path.is_file()
    except OSError as error:
        raise MegasamError(
            "plate_unreadable",
            f"{path} cannot be read: {error.strerror}.",
            "Check its permissions.",
        ) from None
    if is_file and is_movie(path):
        return MovieReader(path)
    if is_file and not is_image(path):
        raise MegasamError(
            "unsupported_format",
            f"{path.name} is neither a movie nor a picture that can be read: its suffix is"
            f" {path.suffix or 'missing'}.",
            f"Movies: {' '.join(sorted(MOVIE_SUFFIXES))}. Pictures:"
            f" {' '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    return SequenceReader(path, sequence_fps)
