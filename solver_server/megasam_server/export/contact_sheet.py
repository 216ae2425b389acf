"""A few frames of the shot side by side: plate, moving pixels, depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from megasam_server.export.depth_images import depth_preview
from megasam_server.export.image_file import fit_inside
from megasam_server.media.frame_store import FrameStore
from megasam_server.pipeline.solved_shot import SolvedShot

THUMBNAIL_LONGEST_SIDE = 320
_MOVING_RGB = np.array([255, 60, 40])
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class ContactFrame:
    """One column: JPEG files of the frame, of the frame with its mask, and of its depth."""

    frame_number: int
    plate: bytes
    masked: bytes
    depth: bytes


def contact_sheet(shot: SolvedShot, frames: FrameStore, count: int = 8) -> Iterator[ContactFrame]:
    """``count`` frames spread over the shot, first and last included; moving pixels are red."""
    for index in np.unique(np.linspace(0, len(shot.cameras) - 1, count).round().astype(int)):
        plate = fit_inside(frames.frame(int(index)), THUMBNAIL_LONGEST_SIDE)
        height, width = plate.shape[:2]
        mask = cv2.resize(
            np.asarray(shot.motion_masks[index]), (width, height), interpolation=cv2.INTER_NEAREST
        )
        masked = plate.copy()
        masked[mask > 0] = (0.45 * plate[mask > 0] + 0.55 * _MOVING_RGB).astype(np.uint8)
        depth = depth_preview(np.asarray(shot.depth[index]), shot.depth_near_far)
        yield ContactFrame(
            frame_number=shot.plate.frame_numbers[index],
            plate=_jpeg(plate[:, :, ::-1]),
            masked=_jpeg(masked[:, :, ::-1]),
            depth=_jpeg(fit_inside(depth, THUMBNAIL_LONGEST_SIDE)),
        )


def _jpeg(pixels: np.ndarray) -> bytes:
    """JPEG of a grey or BGR uint8 picture."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(".jpg", np.ascontiguousarray(pixels), options)[1].tobytes()
