"""How good a solve is, in numbers and in words (``quality.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["good", "check", "failed"]


@dataclass(frozen=True)
class Notice:
    """A warning of the solve: what happened and what the artist can do."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class FocalProfile:
    """Cost of the solve at fixed focal lengths: the honest test of how well the focal length is observable.

    Attributes:
        focal_px: the fixed focal lengths, plate pixels.
        rms_px: RMS reprojection error after refining everything else, plate pixels.
        interval_px: range of focal lengths that the tracks cannot tell from the best one, plate pixels.
        observable: the interval is narrow enough to trust the focal length.
    """

    focal_px: list[float]
    rms_px: list[float]
    interval_px: tuple[float, float]
    observable: bool

    def scaled(self, factor: float) -> FocalProfile:
        """The same for a picture ``factor`` times as large."""
        low, high = self.interval_px
        return FocalProfile(
            [factor * focal for focal in self.focal_px],
            [factor * rms for rms in self.rms_px],
            (factor * low, factor * high),
            self.observable,
        )


@dataclass(frozen=True)
class WindowJoin:
    """How well two windows of a clip, solved by themselves, agree on the frames that are in both.

    Attributes:
        first_frame, last_frame: that both have.
        rotation_deg: RMS angle between their cameras, degrees.
        translation_percent: RMS distance between their cameras, percent of the median depth of what these see.
        scale_ratio: scale by the camera positions over scale by the depths, 1 = they agree; None where the camera
            travels too little to tell.
        inliers: share of these frames that fit one similarity.
    """

    first_frame: int
    last_frame: int
    rotation_deg: float
    translation_percent: float
    scale_ratio: float | None
    inliers: float


@dataclass(frozen=True)
class Quality:
    """Quality of one solve. Lengths in plate pixels, shares 0-1.

    Attributes:
        verdict: ``good``, ``check`` (look before you use it) or ``failed`` (do not use it).
        reasons: why, in words an artist can act on; never empty unless the verdict is ``good``.
        rms_px: RMS reprojection error of the static points.
        per_frame_rms_px: [N] the same for each frame; None where the frame sees no solved point.
        coverage: mean share of the picture (8x8 cells) that carries a solved static point.
        moving_share: mean share of pixels in the motion mask.
        baseline_to_depth: camera path extent divided by median point depth; 0 for a tripod shot.
        median_track_length: frames a solved point is seen in, median.
        num_points: solved static points.
        focal_profile: None when the focal length was given, or the engine did not vary it.
        scale_is_metric: lengths are metres.
        window_joins: of a clip that was solved in windows.
    """

    verdict: Verdict
    reasons: list[str]
    rms_px: float
    per_frame_rms_px: list[float | None]
    coverage: float
    moving_share: float
    baseline_to_depth: float
    median_track_length: float
    num_points: int
    focal_profile: FocalProfile | None
    scale_is_metric: bool
    warnings: list[Notice] = field(default_factory=list)
    window_joins: list[WindowJoin] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """False when no client may bake the camera without being told to."""
        return self.verdict != "failed"

    def to_map(self) -> dict:
        """Plain map of JSON and msgpack types."""
        return asdict(self) | {"usable": self.usable}


def is_usable(quality: Mapping[str, Any], *also_said: Mapping[str, Any]) -> bool:
    """Whether a client may bake the camera without being told to.

    Args:
        quality: of the solve, as a map.
        also_said: other maps of the same solve that must say ``usable``: its result, its camera.
    """
    return (
        quality.get("verdict") in ("good", "check")
        and quality.get("usable") is not False
        and all(said.get("usable") is True for said in also_said)
    )
