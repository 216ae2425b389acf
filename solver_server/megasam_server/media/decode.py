"""Decode a plate once, at the size the solver works at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from megasam_shared.errors import MegasamError

from megasam_server.media.frame_store import FrameStore, write_frame_store
from megasam_server.media.picture_limits import MIN_SIDE
from megasam_server.media.plate import Plate, PlateInfo
from megasam_server.media.preview import Previews
from megasam_server.pipeline.progress import Progress

STAGE = "plate"
# Standard deviation in codes of 8 bit below which a frame is flat: sensor and codec noise on black
# stays under it, the faintest picture that can be tracked does not.
FLAT = 1.5


def solver_size(width: int, height: int, long_side_limit: int) -> tuple[int, int]:
    """Width and height for the solver: aspect kept, long side within the limit, never enlarged.

    Raises:
        MegasamError: ``plate_too_small`` when a side falls below 64 pixels.
    """
    scale = min(1.0, long_side_limit / max(width, height))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    if min(small) < MIN_SIDE:
        raise MegasamError(
            "plate_too_small",
            f"A plate of {width} x {height} becomes {small[0]} x {small[1]} with a long side of at"
            f" most {long_side_limit}: each side must keep at least {MIN_SIDE} pixels.",
            "Crop the plate to a less extreme shape, or solve at a higher resolution.",
        )
    return small


def decode(plate: Plate, store_path: Path, long_side_limit: int, progress: Progress) -> FrameStore:
    """Decode every frame once into a frame store, reduced by area averaging.

    Args:
        plate: what to decode.
        store_path: file to write; absent if anything goes wrong.
        long_side_limit: longest side of the stored frames, pixels.
        progress: told per frame, stage ``plate``.

    Raises:
        MegasamError: of ``open_plate`` for frames that cannot be read; ``no_picture_content``,
            ``disk_full``, ``plate_too_small``.
    """
    width, height = solver_size(plate.info.width, plate.info.height, long_side_limit)
    store = FrameStore(store_path, len(plate), width, height, 3)
    write_frame_store(store, _reduced(plate, store, progress))
    return store


def _reduced(plate: Plate, store: FrameStore, progress: Progress) -> Iterator[np.ndarray]:
    flat = True
    progress.update(STAGE, 0, store.num_frames)
    previews = Previews(progress, STAGE, plate.info.frame_numbers)
    for done, picture in enumerate(plate, start=1):
        small = picture
        if picture.shape != store.frame_shape:
            small = cv2.resize(picture, (store.width, store.height), interpolation=cv2.INTER_AREA)
        if flat:
            flat = bool(cv2.meanStdDev(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))[1][0, 0] < FLAT)
        previews.show(done - 1, lambda small=small: small)
        yield small
        progress.update(STAGE, done, store.num_frames)
    if flat:
        raise _no_picture(plate.info)


def _no_picture(info: PlateInfo) -> MegasamError:
    return MegasamError(
        "no_picture_content",
        f"{info.name} shows nothing: all {info.num_frames} frames are black or of one colour.",
        "Check that the right file and layer were exported.",
    )
