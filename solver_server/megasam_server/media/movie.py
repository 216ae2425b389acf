"""Plates that are movie files, read through PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from megasam_shared.errors import MegasamError
from megasam_shared.quality import Notice

from megasam_server.media.movie_listing import (
    damaged_movie,
    decoder_agrees,
    list_decoded_frames,
    list_frames,
)
from megasam_server.media.orientation import UPRIGHT, from_display_matrix
from megasam_server.media.picture_limits import check_plate_size, picture_limits
from megasam_server.media.plate import PlateInfo
from megasam_server.media.square_pixels import square_pixels_notice, square_size, to_square_pixels

# Plates come from elsewhere. Play lists and concat scripts, which FFmpeg would follow to other
# files and addresses, are not movies.
SAFE_OPEN = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mxf,mpeg,mpegts,mpegvideo,asf,"
    "ogg",
}
MOST_STREAMS = 64
MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


class MovieReader:
    """A movie file; see ``PlateReader``. Frames are numbered from 1 in the order they are shown.

    Rotation and mirroring of the display matrix are applied, non-square pixels are stretched, more
    than 8 bits are reduced to 8 and alpha is ignored by ``frames``.

    Raises:
        MegasamError: ``plate_not_found``, ``plate_unreadable``, ``not_a_movie``,
            ``truncated_movie`` (the index is missing, or the file ends before its last frame),
            ``damaged_movie``, ``plate_too_small``, ``plate_too_large``, ``plate_too_long`` or
            ``plate_size_unreadable``; ``size_changes`` while reading.
    """

    kind = "movie"

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.name = path.stem
        with self._video() as (container, stream):
            context = stream.codec_context
            if not context.width or not context.height:
                raise _size_unreadable(path.name)
            check_plate_size(context.width, context.height, path.name)
            self._stored_size = (context.width, context.height)
            self._pixel_aspect = _pixel_aspect(stream.sample_aspect_ratio)
            self._listing = list_frames(container, stream, path.name)
        with self._video() as (container, stream):
            agreed = decoder_agrees(container, stream, self._listing)
        if not agreed:
            with self._video() as (container, stream):
                self._listing = list_decoded_frames(container, stream, path.name)
        self.frame_numbers = list(range(1, len(self._listing.seconds) + 1))
        self._orientation = UPRIGHT
        self._has_alpha = self._interlaced = False
        with closing(self._decoded(1, 1)) as decoding:
            frame = next(decoding)
        self._has_alpha = any(component.is_alpha for component in frame.format.components)
        self._interlaced = frame.interlaced_frame
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is not None:
            self._orientation = from_display_matrix(bytes(matrix))
        self._size = self._orientation.size(*square_size(*self._stored_size, self._pixel_aspect))
        check_plate_size(*self._size, path.name)

    def info(self, first: int, last: int) -> PlateInfo:
        """See ``PlateReader``."""
        seconds = self._listing.seconds[first - 1 : last]
        return PlateInfo(
            name=self.name,
            kind=self.kind,
            width=self._size[0],
            height=self._size[1],
            fps=self._listing.fps,
            frame_numbers=list(range(first, last + 1)),
            times=[float(t - seconds[0]) for t in seconds],
            files=[self._path.name],
            missing=[],
            warnings=self._warnings(),
        )

    def frames(self, first: int, last: int) -> Iterator[np.ndarray]:
        """See ``PlateReader``."""
        return self._pictures(first, last, "rgb24")

    def pictures(self, first: int, last: int) -> Iterator[np.ndarray]:
        """See ``PlateReader``; uint8."""
        return self._pictures(first, last, "rgba" if self._has_alpha else "rgb24")

    def _pictures(self, first: int, last: int, pixel_format: str) -> Iterator[np.ndarray]:
        for frame in self._decoded(first, last):
            picture = to_square_pixels(frame.to_ndarray(format=pixel_format), self._pixel_aspect)
            yield self._orientation.apply(picture)

    def _decoded(self, first: int, last: int) -> Iterator[av.VideoFrame]:
        """Decoded frames number ``first`` to ``last``; starts at the key frame before ``first``."""
        pts = self._listing.pts
        number = 1 if pts is None else first
        with self._video() as (container, stream):
            if pts is not None and first > 1:
                starts = [dts for key, dts in self._listing.keys if key <= pts[first - 1]]
                if starts:
                    container.seek(starts[-1], stream=stream)
            decoding = container.decode(stream)
            while number <= last:
                try:
                    frame = next(decoding)
                except (StopIteration, av.error.FFmpegError) as error:
                    raise self._damaged(number) from error
                if pts is not None and frame.pts is not None:
                    if frame.pts < pts[number - 1]:
                        continue  # between the key frame and the first frame asked for
                    if frame.pts > pts[number - 1]:
                        raise self._damaged(number)
                if frame.is_corrupt:
                    raise self._damaged(number)
                if (frame.width, frame.height) != self._stored_size:
                    raise MegasamError(
                        "size_changes",
                        f"Frame {number} of {self._path.name} is {frame.width} x {frame.height},"
                        f" but the movie begins with {self._stored_size[0]} x"
                        f" {self._stored_size[1]}.",
                        "All frames of a plate must have one size.",
                    )
                if number >= first:
                    yield frame
                number += 1

    def _damaged(self, number: int) -> MegasamError:
        return damaged_movie(self._path.name, number, len(self._listing.seconds))

    def _open(self) -> av.container.InputContainer:
        try:
            with self._path.open("rb") as file:
                head = file.read(8)
            # Opening decodes a frame of a stream whose header leaves questions.
            return av.open(
                str(self._path),
                options=SAFE_OPEN,
                stream_options=[_largest_picture()] * MOST_STREAMS,
                metadata_errors="replace",
            )
        except FileNotFoundError:
            raise MegasamError(
                "plate_not_found", f"There is no file {self._path}.", "Check the path."
            ) from None
        except av.error.FFmpegError as error:
            if head[4:] in MP4_FIRST_BOXES:
                raise MegasamError(
                    "truncated_movie",
                    f"{self._path.name} has no index (moov atom) that can be read: 0 frames are"
                    " readable. The recording or the copy was cut off before the end.",
                    "Copy the file again, or export it again from its source.",
                ) from error
            what = "is empty" if not head else "is not a movie that can be read"
            raise MegasamError(
                "not_a_movie",
                f"{self._path.name} {what}, whatever its suffix says.",
                "Give a movie (mp4, mov, mkv, avi, mxf, webm ...) or an image sequence.",
            ) from error
        except OSError as error:
            raise MegasamError(
                "plate_unreadable",
                f"{self._path} cannot be read: {error.strerror}.",
                "Check its permissions.",
            ) from None

    @contextmanager
    def _video(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        """The open movie and its video track."""
        with self._open() as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise MegasamError(
                    "not_a_movie",
                    f"{self._path.name} holds no video that can be decoded.",
                    "Give a movie with a video track in a common codec.",
                )
            stream.thread_type = "AUTO"
            # The picture in the stream may be larger than the container says.
            stream.codec_context.options = _largest_picture()
            yield container, stream

    def _warnings(self) -> list[Notice]:
        notices = []
        if self._pixel_aspect != 1:
            notices.append(square_pixels_notice(self.name, float(self._pixel_aspect)))
        if self._interlaced:
            notices.append(
                Notice(
                    "interlaced",
                    f"{self.name} is interlaced: each frame holds two moments, and moving edges"
                    " are combs.",
                    "Deinterlace the plate before solving it.",
                )
            )
        if not self._listing.uniform:
            notices.append(
                Notice(
                    "variable_frame_rate",
                    f"The frames of {self.name} are not evenly spaced in time;"
                    f" {self._listing.fps:.3f} frames per second is their average.",
                    "Each frame of the movie gets one camera key; conform the plate to a constant"
                    " rate if the scene needs real time.",
                )
            )
        return notices


def _size_unreadable(name: str) -> MegasamError:
    megapixels = picture_limits().pixels / 1e6
    return MegasamError(
        "plate_size_unreadable",
        f"{name} does not say how large its pictures are, or they have more than the"
        f" {megapixels:.0f} megapixels that are allowed.",
        "Scale the plate down, or check that the file is not damaged.",
    )


def _largest_picture() -> dict[str, str]:
    """The option that keeps FFmpeg from making larger pictures than the limits allow."""
    return {"max_pixels": str(picture_limits().pixels)}


def _pixel_aspect(ratio: Fraction | None) -> Fraction:
    return ratio if ratio and Fraction(1, 4) <= ratio <= 4 else Fraction(1)
