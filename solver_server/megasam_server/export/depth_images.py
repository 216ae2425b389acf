"""Depth of one frame: the numbers for comp as EXR, a picture of them as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenImageIO as oiio

from megasam_server.export.image_file import fit_inside, write_png

PREVIEW_LONGEST_SIDE = 960
_LARGEST_HALF = float(np.finfo(np.float16).max)


def write_depth_image(path: Path, depth: np.ndarray, units: str) -> None:
    """Half-float EXR with the one channel ``Z``, at the resolution of ``depth``.

    Args:
        path: ``.exr`` to write.
        depth: z-depth, distance along the optical axis, float [h,w]; beyond 65504 is clamped, the
            largest number of the format.
        units: of the depth, for the picture's description, e.g. ``metres``.

    Raises:
        OSError: the picture cannot be written.
    """
    height, width = depth.shape
    spec = oiio.ImageSpec(width, height, 1, oiio.HALF)
    spec.channelnames = ("Z",)
    spec.attribute("compression", "zip")
    spec.attribute("ImageDescription", f"z-depth along the optical axis, {units}")
    output = oiio.ImageOutput.create(str(path))
    pixels = np.minimum(depth.astype(np.float32), _LARGEST_HALF)[:, :, np.newaxis]
    written = output.open(str(path), spec) and output.write_image(pixels)
    if not (output.close() and written):
        raise OSError(f"{path}: {output.geterror() or 'the picture could not be written'}")


def depth_preview(depth: np.ndarray, near_far: tuple[float, float]) -> np.ndarray:
    """Inverse depth as grey, uint8, no side longer than 960: white is near, black is far.

    Args:
        depth: z-depth, float [h,w]; pixels without depth (not finite or <= 0) become black.
        near_far: depths of white and black; the same for the whole clip, or it would flicker.
    """
    near, far = near_far
    known = np.isfinite(depth) & (depth > 0)
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape, np.float32), where=known)
    span = max(1 / near - 1 / far, 1e-12)
    grey = np.where(known, np.clip((inverse - 1 / far) / span, 0, 1), 0)
    return fit_inside((grey * 255 + 0.5).astype(np.uint8), PREVIEW_LONGEST_SIDE)


def write_depth_preview(path: Path, depth: np.ndarray, near_far: tuple[float, float]) -> None:
    """PNG of :func:`depth_preview`."""
    write_png(path, depth_preview(depth, near_far))
