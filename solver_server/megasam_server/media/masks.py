"""Masks: the pixels that the artist wants left out of the solve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from megasam_shared.errors import MegasamError

from megasam_server.media.decode import STAGE
from megasam_server.media.frame_range import name_frames
from megasam_server.media.frame_store import FrameStore, write_frame_store
from megasam_server.media.open_plate import open_reader
from megasam_server.media.plate import PlateInfo, PlateReader
from megasam_server.pipeline.progress import Progress

THRESHOLD = 0.5
SAME = 2 / 255  # spread of a channel that is constant but for the noise of a codec


def mask_of_picture(picture: np.ndarray) -> np.ndarray:
    """Pixels to leave out: where the picture is white.

    The colour decides (the brightest of R, G, B above 0.5) wherever it shows a shape. If it is one
    flat colour, the shape may be in the alpha: then alpha above 0.5 decides. If alpha is flat as
    well, all or nothing is masked: all if the colour is white and opaque, else nothing. So an
    opaque black frame masks nothing, and a matte in the alpha works over black and over white.

    Args:
        picture: [H,W,3] RGB or [H,W,4] RGB and alpha; integers span their type, floats 0-1.

    Returns:
        bool [H,W], True = leave out.
    """
    white = np.iinfo(picture.dtype).max if np.issubdtype(picture.dtype, np.integer) else 1.0
    colour = picture[..., :3].max(axis=2)
    masked = colour > THRESHOLD * white
    if picture.shape[2] == 3 or np.ptp(picture[..., :3], axis=(0, 1)).max() > SAME * white:
        return masked
    alpha = picture[..., 3]
    if np.ptp(alpha) > SAME * white:
        return alpha > THRESHOLD * white
    return masked & (alpha > THRESHOLD * white)


def reduce_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """Mask at the solver's size: set wherever any masked pixel contributes to the reduced frame.

    Frames are reduced by area averaging, so the same averaging of the mask is above zero exactly
    where a masked pixel leaks into the frame.

    Args:
        mask: bool [H,W].

    Returns:
        uint8 [height,width], 1 = leave out.
    """
    if mask.shape == (height, width):
        return mask.astype(np.uint8)
    covered = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return (covered > 0).astype(np.uint8)


def decode_masks(
    path: Path, plate: PlateInfo, frames: FrameStore, store_path: Path, progress: Progress
) -> FrameStore:
    """Decode the masks of a plate, one for each of its frames, at the size of the frame store.

    Masks belong to frames by number, when the masks have all the numbers of the plate. Where the
    plate or the masks are a movie, whose numbers are only counted, and where no number is in both,
    they belong by position if there are as many masks as frames. A mask movie never matches a
    plate sequence by number.

    Args:
        path: a movie or sequence of masks, white = leave out, see ``mask_of_picture``.
        plate: the plate they belong to.
        frames: its decoded frames.
        store_path: file to write; absent if anything goes wrong.
        progress: told per frame, stage ``plate``.

    Returns:
        one channel, 1 = leave out, 0 = use.

    Raises:
        MegasamError: of ``open_plate`` for masks that cannot be read; ``mask_size``,
            ``mask_frames_missing``, ``mask_count``, ``disk_full``.
    """
    reader = open_reader(Path(path))
    first, last = _matching_range(reader, plate)
    info = reader.info(first, last)
    if (info.width, info.height) != (plate.width, plate.height):
        raise MegasamError(
            "mask_size",
            f"The masks {info.name} are {info.width} x {info.height}, but the plate {plate.name}"
            f" is {plate.width} x {plate.height}.",
            "Export the masks at the size of the plate.",
        )
    store = FrameStore(store_path, frames.num_frames, frames.width, frames.height, 1)
    write_frame_store(store, _reduced(reader.pictures(first, last), store, progress))
    return store


def _reduced(
    pictures: Iterator[np.ndarray], store: FrameStore, progress: Progress
) -> Iterator[np.ndarray]:
    for done, picture in enumerate(pictures, start=1):
        yield reduce_mask(mask_of_picture(picture), store.width, store.height)
        progress.update(STAGE, done, store.num_frames, "masks")


def _matching_range(masks: PlateReader, plate: PlateInfo) -> tuple[int, int]:
    """First and last mask that belong to the plate's frames."""
    numbers = masks.frame_numbers
    counted = plate.kind == "movie" or masks.kind == "movie"
    by_number = not (masks.kind == "movie" and plate.kind == "sequence")
    missing = sorted(set(plate.frame_numbers) - set(numbers))
    if by_number and not missing:
        return plate.frame_numbers[0], plate.frame_numbers[-1]
    share_numbers = len(missing) < plate.num_frames
    if len(numbers) == plate.num_frames and (counted or not share_numbers):
        return numbers[0], numbers[-1]
    if by_number and share_numbers:
        raise MegasamError(
            "mask_frames_missing",
            f"The masks {masks.name} have no frame {name_frames(missing)}, which the plate"
            f" {plate.name} has.",
            "Export a mask for every frame of the range, with the frame numbers of the plate.",
        )
    raise MegasamError(
        "mask_count",
        f"There are {len(numbers)} masks ({masks.name}, {name_frames(numbers)}) for"
        f" {plate.num_frames} frames of the plate {plate.name}"
        f" ({name_frames(plate.frame_numbers)}), and their frame numbers do not match.",
        "Export one mask for each frame, with the frame numbers of the plate.",
    )
