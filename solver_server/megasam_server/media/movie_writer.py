"""Write frames as a movie, for the demo and for tests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from megasam_shared.errors import MegasamError

BT709 = 1  # the number of BT.709 in the primaries and transfer fields of a video stream (H.273)
MPEG4_BITS_PER_PIXEL = 2.0  # far above need: the fallback codec is limited by its quantiser instead


def write_movie(path: Path, frames: Iterable[np.ndarray], fps: float, crf: int = 14) -> None:
    """Encode RGB frames as an H.264 mp4 (BT.709, limited range), one frame in memory at a time.

    Even sizes are written as yuv420p, which everything plays. An odd width or height cannot be
    halved for the colour planes, so such clips are written as yuv444p: the picture keeps its size
    to the pixel instead of being padded or cropped. Where PyAV comes without libx264 the clip is
    MPEG-4 part 2 at its finest quantiser, and ``crf`` has no effect.

    Args:
        path: file to write; it appears under this name only when it is complete.
        frames: uint8 [H,W,3] RGB each, all of one size.
        fps: frames per second, constant.
        crf: H.264 quality, 0 (lossless) to 51; 14 is visually lossless.

    Raises:
        MegasamError: ``no_frames`` when there is nothing to write.
        ValueError: a frame has another size or type than the first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        with av.open(str(unfinished), "w", format="mp4") as container:
            count = _encode(container, frames, fps, crf)
        if count == 0:
            raise MegasamError("no_frames", f"There are no frames to write to {path.name}.")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _encode(
    container: av.container.OutputContainer, frames: Iterable[np.ndarray], fps: float, crf: int
) -> int:
    """Encode every frame into the container; returns how many there were."""
    stream = None
    shape: tuple[int, ...] = ()
    count = 0
    for picture in frames:
        if stream is None:
            shape = picture.shape
            stream = _add_stream(container, shape[1], shape[0], fps, crf)
        if picture.shape != shape or picture.dtype != np.uint8:
            raise ValueError(f"frame {count}: {picture.dtype} {picture.shape}, not uint8 {shape}")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(
            format=stream.pix_fmt,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts = count
        frame.time_base = stream.codec_context.time_base
        container.mux(stream.encode(frame))
        count += 1
    if stream is not None:
        container.mux(stream.encode())
    return count


def _add_stream(
    container: av.container.OutputContainer, width: int, height: int, fps: float, crf: int
) -> av.VideoStream:
    rate = Fraction(fps).limit_denominator(1001)
    has_x264 = "libx264" in av.codecs_available
    stream = container.add_stream("libx264" if has_x264 else "mpeg4", rate=rate)
    stream.width, stream.height = width, height
    context = stream.codec_context
    context.time_base = 1 / rate
    context.color_range = ColorRange.MPEG
    context.colorspace = Colorspace.ITU709
    context.color_primaries = context.color_trc = BT709
    if has_x264:
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        stream.options = {"crf": str(crf), "preset": "veryfast"}
    else:
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = int(width * height * float(rate) * MPEG4_BITS_PER_PIXEL)
        stream.options = {"qmin": "1", "qmax": "2"}
    return stream
