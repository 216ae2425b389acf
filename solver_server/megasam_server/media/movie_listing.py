"""Which frames a movie has and when they are shown, and whether all of them are there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import av
import numpy as np
from megasam_shared.errors import MegasamError

from megasam_server.media.picture_limits import check_frame_count
from megasam_server.media.plate import DEFAULT_FPS

UNEVEN = 0.05  # part of a frame's length; less is jitter of the recorder's clock
PROBED = 16  # frames compared with the decoder; more than any codec reorders


@dataclass(frozen=True)
class FrameListing:
    """The frames of a movie as its packets list them, before any is decoded.

    Attributes:
        pts: [N] presentation times in units of the stream's time base, ascending, which the
            decoder will repeat; None where they cannot be relied upon and only the order counts.
        keys: (pts, dts) of the frames where decoding can start.
        seconds: [N] the same as seconds since the first frame.
        fps: frames per second, average.
        uniform: all frames are equally far apart.
    """

    pts: list[int] | None
    keys: list[tuple[int, int]]
    seconds: np.ndarray
    fps: float
    uniform: bool


def list_frames(
    container: av.container.InputContainer, stream: av.VideoStream, name: str
) -> FrameListing:
    """List the frames of an open movie by reading its packets; nothing is decoded.

    Raises:
        MegasamError: ``truncated_movie`` naming how many frames are there and how many should be.
    """
    shown: list[int | None] = []
    keys: list[tuple[int, int]] = []
    packets, end, corrupt = 0, 0, False
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue  # the signal to flush the decoder
            if packet.is_corrupt:
                corrupt = True
                break
            packets += 1
            check_frame_count(packets, name)
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
                if packet.is_keyframe and packet.dts is not None:
                    keys.append((packet.pts, packet.dts))
            if not packet.is_discard:  # trimmed away by an edit list
                shown.append(packet.pts)
    except av.error.FFmpegError:
        corrupt = True
    missing = _missing_frames(container, stream, end, packets)
    if corrupt or missing or not shown:
        readable = min(packets, len(shown))
        promised = stream.frames or packets + missing
        raise MegasamError(
            "truncated_movie",
            f"{name} is cut off: {readable} of the {promised} frames that it"
            " promises are readable.",
            "Copy the file again, or export it again from its source.",
        )
    return _timing(shown, keys, stream)


def decoder_agrees(
    container: av.container.InputContainer, stream: av.VideoStream, listing: FrameListing
) -> bool:
    """Whether the first decoded frames have the times that the packets promise.

    They have not where a packet is not a frame (interlaced fields on their own), where the format
    stores the order of decoding only (H.264 with B-frames in AVI), or no time at all.
    """
    if listing.pts is None:
        return False
    try:
        for promised, frame in zip(listing.pts[:PROBED], container.decode(stream), strict=False):
            if frame.pts != promised:
                return False
    except av.error.FFmpegError:
        pass  # reading the frames will say which one is damaged
    return True


def list_decoded_frames(
    container: av.container.InputContainer, stream: av.VideoStream, name: str
) -> FrameListing:
    """List the frames of an open movie by decoding all of it; for the rare files that need it.

    Raises:
        MegasamError: ``damaged_movie``.
    """
    shown: list[int | None] = []
    try:
        for frame in container.decode(stream):
            shown.append(frame.pts)
            check_frame_count(len(shown), name)
    except av.error.FFmpegError as error:
        raise damaged_movie(name, len(shown) + 1, stream.frames) from error
    return replace(_timing(shown, [], stream), pts=None)


def damaged_movie(name: str, number: int, promised: int) -> MegasamError:
    """The error for a movie whose frame ``number`` (from 1) cannot be decoded."""
    return MegasamError(
        "damaged_movie",
        f"Frame {number} of {name} cannot be decoded: {number - 1} of the {promised} frames that"
        " the file promises are readable before it.",
        "The file is damaged: copy or export it again, or solve a range without that frame.",
    )


def _missing_frames(
    container: av.container.InputContainer, stream: av.VideoStream, end: int, packets: int
) -> int:
    """How many frames the file promises beyond its last packet, which ends at ``end``.

    The count of the index alone does not tell: where an edit list trims the clip, fewer packets
    come than the index lists, but the duration is trimmed as well. So the time must fall short,
    too. Matroska lists no frames, and rounds its times, so there more than two must be missing.
    """
    if not packets or stream.time_base is None:
        return stream.frames
    covered = (end - (stream.start_time or 0)) * float(stream.time_base)
    if stream.frames:
        promised = (stream.duration or 0) * float(stream.time_base)
        short = promised - covered > 0.5 * covered / packets
        return max(0, stream.frames - packets) if short else 0
    if "matroska" in container.format.name:
        lost = (_matroska_seconds(container, stream) - covered) * packets / max(covered, 1e-3)
        return round(lost) if lost > 2.5 else 0
    return 0  # the other formats promise nothing


def _matroska_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    tag = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
        return hours * 3600 + minutes * 60 + seconds
    except ValueError:
        # The container's duration is that of its longest track, which may be the sound.
        return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _timing(
    shown: list[int | None], keys: list[tuple[int, int]], stream: av.VideoStream
) -> FrameListing:
    rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
    count = len(shown)
    if None in shown or len(set(shown)) < count or stream.time_base is None:
        return FrameListing(None, [], np.arange(count) / rate, rate, True)
    pts = sorted(shown)
    seconds = (np.array(pts, np.float64) - pts[0]) * float(stream.time_base)
    if count < 2:
        return FrameListing(pts, keys, seconds, rate, True)
    step = seconds[-1] / (count - 1)
    tolerance = 1.01 * float(stream.time_base) + UNEVEN * step
    uniform = bool(np.all(np.abs(np.diff(seconds) - step) <= tolerance))
    agrees = abs(rate * step - 1.0) < 0.005
    return FrameListing(
        pts, sorted(keys), seconds, rate if uniform and agrees else 1.0 / step, uniform
    )
