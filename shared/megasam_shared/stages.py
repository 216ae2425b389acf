"""The one table of stages: every progress bar, log line and result folder names them from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One step of a solve.

    Attributes:
        key: identifier in messages and results.
        number: 0 is the preparation of the plate; 1-6 are the stages of the pipeline.
        title: what the artist reads beside the progress bar.
        weight: typical share of the whole solve's time, used for the overall fraction only.
    """

    key: str
    number: int
    title: str
    weight: float


STAGES: tuple[Stage, ...] = (
    Stage("plate", 0, "Reading plate", 0.05),
    Stage("mono_depth", 1, "Mono depth", 0.10),
    Stage("metric_depth", 2, "Metric alignment", 0.05),
    Stage("tracking", 3, "Camera tracking", 0.40),
    Stage("flow", 4, "Optical flow", 0.15),
    Stage("video_depth", 5, "Consistent depth", 0.15),
    Stage("conversion", 6, "Writing results", 0.10),
)

STAGE_BY_KEY: dict[str, Stage] = {stage.key: stage for stage in STAGES}
