"""Everything an artist can set about a solve, and the three presets.

The table is the class itself: each field of :class:`SolveSettings` carries a
:class:`~megasam_shared.field_spec.FieldSpec` (:data:`FIELDS`), from which the command line, the
dialog and the documentation take label, unit, range and text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from megasam_shared.coordinates import COORDINATE_SYSTEMS
from megasam_shared.errors import MegasamError
from megasam_shared.field_spec import FieldSpec, Kind
from megasam_shared.film_back import focal_px_from_mm

ENGINES = ("auto", "megasam", "classical")


@dataclass(frozen=True)
class Preset:
    """Values that belong together.

    Attributes:
        title: what the artist reads.
        vram_gb: free GPU memory the preset needs, GB; the smallest card it is meant for.
        vram_text: the same for people.
        values: by field name; each can be overridden singly.
    """

    title: str
    vram_gb: float
    vram_text: str
    values: Mapping[str, Any]


# From the cheapest to the dearest.
PRESETS: dict[str, Preset] = {
    "fast": Preset(
        title="Fast",
        vram_gb=6,
        vram_text="6 GB",
        values={
            "depth_chunk_size": 1,
            "metric_depth_every": 0,
            "tracking_resolution": 240,
            "flow_chunk_size": 4,
            "run_cvd": False,
            "cvd_resolution": 0.5,
            "max_frames": 200,
        },
    ),
    "balanced": Preset(
        title="Balanced",
        vram_gb=8,
        vram_text="8-10 GB",
        values={
            "depth_chunk_size": 4,
            "metric_depth_every": 10,
            "tracking_resolution": 384,
            "flow_chunk_size": 8,
            "run_cvd": True,
            "cvd_resolution": 0.5,
            "max_frames": 500,
        },
    ),
    "best": Preset(
        title="Best",
        vram_gb=12,
        vram_text="12 GB or more",
        values={
            "depth_chunk_size": 8,
            "metric_depth_every": 1,
            "tracking_resolution": 480,
            "flow_chunk_size": 16,
            "run_cvd": True,
            "cvd_resolution": 1.0,
            "max_frames": 1000,
        },
    ),
}


def _setting(kind: Kind, label: str, doc: str, default: Any = None, **spec: Any) -> Any:
    """A dataclass field that carries its specification."""
    described = FieldSpec(kind=kind, label=label, doc=doc, default=default, **spec)
    return field(default=default, metadata={"spec": described})


def _preset_setting(kind: Kind, label: str, doc: str, **spec: Any) -> Any:
    """A setting whose value comes from the preset unless given; advanced, all of them."""
    return _setting(kind, label, doc, none_means="as the preset says", advanced=True, **spec)


@dataclass(frozen=True, kw_only=True)
class SolveSettings:
    """Settings of one solve, always valid: construction checks every value.

    A field that belongs to the preset may be None on construction and then takes the preset's
    value, so ``SolveSettings(quality_preset="fast")`` is the Fast preset; on a finished object it
    is never None.

    Raises:
        MegasamError: ``setting_wrong_type``, ``setting_unknown_choice``, ``setting_out_of_range``
            or, for two settings that contradict each other, ``setting_conflict``.
    """

    coordinate_system: str = _setting(
        "choice",
        "Coordinate system",
        "Axes of the result: maya is Y-up, blender is Z-up, opencv is x right, y down, z forward.",
        "maya",
        choices=COORDINATE_SYSTEMS,
    )
    quality_preset: str = _setting(
        "choice",
        "Quality",
        "Sets everything under Advanced that is not set singly.",
        "balanced",
        choices=tuple(PRESETS),
    )
    focal_length_px: float = _setting(
        "float",
        "Focal length",
        "Focal length in pixels of the full plate width.",
        0.0,
        unit="px",
        minimum=1,
        maximum=1_000_000,
        zero_means="estimate",
    )
    focal_mm: float = _setting(
        "float",
        "Focal length",
        "Focal length of the lens, together with the film back width; instead of pixels.",
        0.0,
        unit="mm",
        minimum=0.1,
        maximum=10_000,
        zero_means="not given",
    )
    film_back_mm: float = _setting(
        "float",
        "Film back width",
        "Width of the part of the sensor or film that the plate shows.",
        0.0,
        unit="mm",
        minimum=0.5,
        maximum=1_000,
        zero_means="not given",
    )
    optimize_focal: bool = _setting(
        "bool",
        "Refine focal length",
        "Let the solve refine a given focal length. One that is not given is always estimated.",
        False,
    )
    first_frame: int | None = _setting(
        "int",
        "First frame",
        "First plate frame to solve, by its own number (1001, not 0).",
        minimum=-99_999_999,
        maximum=99_999_999,
        none_means="from the start",
    )
    last_frame: int | None = _setting(
        "int",
        "Last frame",
        "Last plate frame to solve, included, by its own number.",
        minimum=-99_999_999,
        maximum=99_999_999,
        none_means="to the end",
    )
    engine: str = _setting(
        "choice",
        "Engine",
        "megasam is learned, classical needs no GPU; auto takes the better one that can run.",
        "auto",
        choices=ENGINES,
    )
    fallback_policy: str = _setting(
        "choice",
        "If it does not fit",
        "What to do when engine or preset do not fit the machine: lower it and say so, or fail.",
        "lower",
        choices=("lower", "fail"),
    )
    commercial_only: bool = _setting(
        "bool",
        "Commercial use",
        "Refuse checkpoints whose licence forbids commercial use.",
        False,
    )
    max_frames: int = _preset_setting(
        "int",
        "Most frames",
        "Most frames of one solve; a longer plate is reported, never cut silently.",
        unit="frames",
        minimum=2,
        maximum=100_000,
    )
    depth_chunk_size: int = _preset_setting(
        "int",
        "Depth chunk",
        "Frames that the mono depth network takes at once: more is faster, and needs more memory.",
        unit="frames",
        minimum=1,
        maximum=16,
    )
    metric_depth_every: int = _preset_setting(
        "int",
        "Metric depth every",
        "Every how many frames metric depth is estimated; it gives the solve its scale in metres.",
        unit="frames",
        minimum=1,
        maximum=1_000,
        zero_means="skip",
    )
    tracking_resolution: int = _preset_setting(
        "int",
        "Tracking resolution",
        "Tracking sees as many pixels as a 4:3 picture of this height has, in the plate's aspect.",
        unit="px",
        minimum=160,
        maximum=960,
        step=8,
    )
    max_keyframes: int = _setting(
        "int",
        "Keyframes",
        "Keyframes held while tracking; the oldest leave when it is full.",
        128,
        unit="frames",
        minimum=96,
        maximum=256,
        advanced=True,
    )
    flow_chunk_size: int = _preset_setting(
        "int",
        "Flow chunk",
        "Frame pairs that the optical flow network takes at once.",
        unit="pairs",
        minimum=4,
        maximum=16,
    )
    run_cvd: bool = _preset_setting(
        "bool",
        "Consistent video depth",
        "Refine the depth maps so that they agree from frame to frame.",
    )
    cvd_resolution: float = _preset_setting(
        "float",
        "Video depth resolution",
        "Size of the refined depth as a share of the tracking resolution.",
        minimum=0.25,
        maximum=1,
    )
    cvd_iterations: int = _setting(
        "int",
        "Video depth iterations",
        "Gradient steps of the main part of the depth refinement.",
        400,
        minimum=1,
        maximum=10_000,
        advanced=True,
    )
    model_path: str = _setting(
        "text",
        "Checkpoints",
        "Folder with checkpoints on the solver's machine, below one that its server shares for them;"
        " empty for the server's own.",
        "",
        advanced=True,
    )

    def __post_init__(self) -> None:
        for name, spec in FIELDS.items():
            object.__setattr__(self, name, spec.check(getattr(self, name)))
        for name, preset_value in PRESETS[self.quality_preset].values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, preset_value)
        self._check_focal_length()
        self._check_frame_range()

    def _check_focal_length(self) -> None:
        if bool(self.focal_mm) != bool(self.film_back_mm):
            raise MegasamError(
                "setting_conflict",
                f"focal_mm = {self.focal_mm:g} and film_back_mm = {self.film_back_mm:g}: "
                "a focal length in millimetres means nothing without the film back width.",
                "Give both, or neither.",
            )
        if self.focal_mm and self.focal_length_px:
            raise MegasamError(
                "setting_conflict",
                f"focal_length_px = {self.focal_length_px:g}, focal_mm = {self.focal_mm:g} and "
                f"film_back_mm = {self.film_back_mm:g}: the focal length is given twice.",
                "Give it in pixels, or in millimetres with the film back width.",
            )

    def _check_frame_range(self) -> None:
        if self.first_frame is None or self.last_frame is None:
            return
        if self.last_frame < self.first_frame:
            raise MegasamError(
                "setting_conflict",
                f"first_frame = {self.first_frame} and last_frame = {self.last_frame}: "
                "the range ends before it starts.",
                f"last_frame must be at least {self.first_frame}.",
            )

    @property
    def focal_given(self) -> bool:
        """The focal length is known, in pixels or in millimetres."""
        return bool(self.focal_length_px or self.focal_mm)

    def focal_px_at(self, plate_width: int) -> float:
        """Focal length in pixels of a plate ``plate_width`` pixels wide; 0 means estimate it."""
        if self.focal_mm:
            return focal_px_from_mm(self.focal_mm, self.film_back_mm, plate_width)
        return self.focal_length_px

    @property
    def run_metric_depth(self) -> bool:
        """Stage 2 runs."""
        return self.metric_depth_every > 0

    def to_map(self) -> dict[str, Any]:
        """All settings as a map of JSON and msgpack types."""
        return asdict(self)

    @classmethod
    def from_map(cls, data: Mapping[str, Any]) -> SolveSettings:
        """Settings from a map that came from a file or over the wire.

        Unknown keys are ignored (a newer client may send more), missing ones take their default or
        the preset's value; a wrong type, an unknown choice or a value out of range is an error.
        """
        if not isinstance(data, Mapping):
            raise MegasamError(
                "setting_wrong_type",
                f"Settings must be a map of names to values, not {type(data).__name__}.",
            )
        return cls(**{name: data[name] for name in FIELDS if name in data})


FIELDS: dict[str, FieldSpec] = {
    f.name: replace(f.metadata["spec"], name=f.name) for f in fields(SolveSettings)
}
