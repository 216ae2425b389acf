"""Motion mask of one frame as a picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from megasam_server.export.image_file import write_png


def write_mask_image(path: Path, mask: np.ndarray, width: int, height: int) -> None:
    """PNG at plate resolution: 255 = moving, 0 = static.

    Plate resolution, so that the files can go straight back in as masks of another solve.

    Args:
        path: ``.png`` to write.
        mask: uint8 [h,w], 1 = moving.
        width, height: of the plate, pixels.
    """
    full_size = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    write_png(path, np.where(full_size > 0, 255, 0).astype(np.uint8))
