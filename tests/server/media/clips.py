"""Small real plates for the tests, in every format."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import OpenImageIO as oiio


def picture(index: int, width: int = 128, height: int = 96) -> np.ndarray:
    """Uint8 [H,W,3]: smooth gradients that move, and a red square in the top left corner."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = 110 + 60 * np.sin((x + 2 * index) / 9) + 50 * np.cos(y / 11)
    frame = np.stack([waves, waves * 0.8 + 20, 255 - waves], axis=2).astype(np.uint8)
    frame[: height // 4, : width // 4] = (230, 20, 20)
    return frame


def pictures(count: int, width: int = 128, height: int = 96) -> Iterable[np.ndarray]:
    return (picture(i, width, height) for i in range(count))


def corner(frame: np.ndarray) -> str:
    """Where the red square is: ``top left``, ``top right`` ..."""
    height, width = frame.shape[:2]
    redness = frame[..., 0].astype(int) - frame[..., 1] - frame[..., 2] // 2
    spots = {
        f"{v} {h}": redness[row, column].mean()
        for v, row in (("top", slice(2, height // 8)), ("bottom", slice(-height // 8, -2)))
        for h, column in (("left", slice(2, width // 8)), ("right", slice(-width // 8, -2)))
    }
    return max(spots, key=spots.get)


def write_still(path: Path, values: np.ndarray, pixel_type: str | None = None, **header) -> Path:
    """Write [H,W,C] of any type; header keys use ``__`` for ``:``; x, y, full_* set the windows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, channels = values.shape
    names = {"float32": "float", "float16": "half"}
    stored = pixel_type or names.get(values.dtype.name, values.dtype.name)
    spec = oiio.ImageSpec(width, height, channels, stored)
    for key, value in header.items():
        if key in ("x", "y", "full_x", "full_y", "full_width", "full_height", "channelnames"):
            setattr(spec, key, value)
        elif isinstance(value, tuple):
            spec.attribute(key.replace("__", ":"), *value)
        else:
            spec.attribute(key.replace("__", ":"), value)
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), spec), output.geterror()
    assert output.write_image(values), output.geterror()
    output.close()
    return path


def write_pngs(
    folder: Path, numbers: Iterable[int], width: int = 128, height: int = 96, name: str = "plate"
) -> Path:
    for index, number in enumerate(numbers):
        write_still(folder / f"{name}.{number:04d}.png", picture(index, width, height))
    return folder


def encode_movie(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, 24),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    source_format: str = "rgb24",
    rotation: int = 0,
    hflip: bool = False,
    sample_aspect: Fraction | None = None,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A movie with the oddities that recorders produce."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = None
        for index, values in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=24)
                stream.height, stream.width = values.shape[:2]
                stream.pix_fmt = pixel_format
                stream.codec_context.time_base = time_base
                stream.options = codec_options or {}
                if sample_aspect:
                    stream.codec_context.sample_aspect_ratio = sample_aspect
                if rotation or hflip:
                    stream.set_display_rotation(rotation, hflip=hflip)
            frame = av.VideoFrame.from_ndarray(values, format=source_format)
            frame.pts = pts[index] if pts else index
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
