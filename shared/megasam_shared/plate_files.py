"""Which files of a plate and its masks have to be at the solver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megasam_shared.errors import MegasamError
from megasam_shared.file_names import safe_name
from megasam_shared.sequence import FileSequence, find_sequence, is_movie
from megasam_shared.settings import SolveSettings

_MOST_NEGATIVE, _LARGEST = -(10**9), 10**9


@dataclass(frozen=True)
class PlateFiles:
    """The files to upload for one solve.

    Attributes:
        name: the plate's name for folders and labels.
        plate: one movie, or the frames inside the settings' frame range.
        masks: the same for the masks; None without masks.
    """

    name: str
    plate: list[Path]
    masks: list[Path] | None


def find_plate_files(plate: Path, masks: Path | None, settings: SolveSettings) -> PlateFiles:
    """Find the files behind what an artist names: movie, folder, frame or pattern.

    Raises:
        MegasamError: of :func:`megasam_shared.sequence.find_sequence`, ``frame_range_empty``, or
            ``masks_not_found`` with the reason.
    """
    sequence, files = _movie_or_sequence(plate)
    name = safe_name(plate.stem)
    if sequence is not None:
        if settings.first_frame is not None or settings.last_frame is not None:
            sequence = sequence.between(
                _MOST_NEGATIVE if settings.first_frame is None else settings.first_frame,
                _LARGEST if settings.last_frame is None else settings.last_frame,
            )
        name, files = safe_name(sequence.name), sequence.files
    if masks is None:
        return PlateFiles(name, files, None)
    try:
        mask_sequence, mask_files = _movie_or_sequence(masks)
    except MegasamError as error:
        raise MegasamError(
            "masks_not_found", f"The masks cannot be found: {error.message}", error.hint
        ) from None
    if mask_sequence is not None and sequence is not None:
        mask_files = _masks_of(sequence, mask_sequence)
    return PlateFiles(name, files, mask_files)


def _movie_or_sequence(path: Path) -> tuple[FileSequence | None, list[Path]]:
    if is_movie(path) and path.is_file():
        return None, [path]
    sequence = find_sequence(path)
    return sequence, sequence.files


def _masks_of(plate: FileSequence, masks: FileSequence) -> list[Path]:
    """The masks with the plate's frame numbers; all, when they are numbered in another way."""
    by_frame = dict(zip(masks.frames, masks.files, strict=True))
    if all(frame in by_frame for frame in plate.frames):
        return [by_frame[frame] for frame in plate.frames]
    return masks.files
