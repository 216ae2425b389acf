"""How large a picture may be: judged by its header, before memory is taken for its pixels.

A file of a few hundred bytes can claim, and really decode to, gigabytes. The limits are those of
the process: a server hands its own to its workers in the variable ``MEGASAM_PICTURE_LIMITS``.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from functools import cache

from megasam_shared.errors import MegasamError

PICTURE_LIMITS_VARIABLE = "MEGASAM_PICTURE_LIMITS"
MIN_SIDE = 64


@dataclass(frozen=True)
class PictureLimits:
    """What a plate or mask may be.

    Attributes:
        side: longest width or height, pixels.
        pixels: most pixels of a frame.
        frame_bytes: most bytes of a decoded frame with all the channels that are read.
        frames: most frames of a movie.
    """

    side: int = 16_384
    pixels: int = 2**27  # 16384 x 8192
    frame_bytes: int = 2**31
    frames: int = 100_000

    def to_text(self) -> str:
        """For the environment of another process."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())

    @classmethod
    def from_text(cls, text: str) -> PictureLimits:
        """What :meth:`to_text` wrote; limits that it does not name keep their default.

        Raises:
            MegasamError: ``picture_limits_malformed``.
        """
        known = {field.name for field in fields(cls)}
        given = {}
        for word in text.split():
            name, _, value = word.partition("=")
            if name not in known or not value.isdecimal() or int(value) < 1:
                raise MegasamError(
                    "picture_limits_malformed",
                    f"{word[:80]!r} in {PICTURE_LIMITS_VARIABLE} is no limit for pictures.",
                    f"Write NAME=NUMBER; the names are {', '.join(sorted(known))}.",
                )
            given[name] = int(value)
        return cls(**given)


@cache
def picture_limits() -> PictureLimits:
    """The limits of this process."""
    return PictureLimits.from_text(os.environ.get(PICTURE_LIMITS_VARIABLE, ""))


def check_plate_size(width: int, height: int, name: str) -> None:
    """Refuse sizes that cannot be solved or held.

    Raises:
        MegasamError: ``plate_too_small`` or ``plate_too_large``.
    """
    if min(width, height) < MIN_SIDE:
        raise MegasamError(
            "plate_too_small",
            f"{name} is {width} x {height}: each side must have at least {MIN_SIDE} pixels.",
            "Use the full-size plate.",
        )
    limits = picture_limits()
    if max(width, height) > limits.side or width * height > limits.pixels:
        raise MegasamError(
            "plate_too_large",
            f"{name} is {width} x {height}: a side may have at most {limits.side} pixels and the"
            f" picture at most {limits.pixels / 1e6:.0f} megapixels.",
            "Scale the plate down, or check that the file is not damaged.",
        )


def check_frame_bytes(count: int, name: str) -> None:
    """Refuse a frame that would take too much memory once it is decoded.

    Raises:
        MegasamError: ``plate_too_large``.
    """
    most = picture_limits().frame_bytes
    if count > most:
        raise MegasamError(
            "plate_too_large",
            f"A frame of {name} would take {count / 2**20:.0f} MiB in memory; at most"
            f" {most / 2**20:.0f} MiB are allowed.",
            "Write fewer channels or a smaller pixel type, with R, G and B next to each other.",
        )


def check_frame_count(count: int, name: str) -> None:
    """Refuse a movie with more frames than anybody solves.

    Raises:
        MegasamError: ``plate_too_long``.
    """
    most = picture_limits().frames
    if count > most:
        raise MegasamError(
            "plate_too_long",
            f"{name} has more than {most} frames.",
            "Cut the shot out of it.",
        )
