"""How good a solve is, read from its result folder for the dialog."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megasam_shared.quality import is_usable

from megasam_maya.result_files import EXTRINSICS, QUALITY, read_map, results_unreadable

VERDICTS = {
    "good": "Good: ready to apply",
    "check": "Check: look before you use it",
    "failed": "Failed: do not use it",
}


@dataclass(frozen=True)
class SolveQuality:
    """What the read-out shows.

    Attributes:
        verdict: ``good``, ``check`` or ``failed``. usable: may be applied without being insisted on.
        reasons: why it is not better. warnings: (message, hint) of each.
        status: the solver's own line. method: how it was solved.
        rms_px: plate pixels. frames: [N] numbers; errors: [N] px, None where nothing is measured.
        facts: the other numbers, as label and text.
        width, height, fps: of the plate.
    """

    verdict: str
    usable: bool
    reasons: list[str]
    warnings: list[tuple[str, str]]
    status: str
    method: str
    rms_px: float
    frames: list[int]
    errors: list[float | None]
    facts: list[tuple[str, str]]
    width: int
    height: int
    fps: float

    @property
    def headline(self) -> str:
        return VERDICTS[self.verdict]

    @property
    def worst(self) -> list[tuple[int, float]]:
        """The three worst frames: number and error."""
        measured = [(f, e) for f, e in zip(self.frames, self.errors, strict=True) if e is not None]
        return sorted(measured, key=lambda pair: -pair[1])[:3]


def read_quality(folder: Path) -> SolveQuality:
    """Read ``quality.json`` and ``camera_extrinsics.json`` of a result folder.

    Raises:
        MegasamError: ``results_unreadable``, naming the file and what is wrong with it.
    """
    quality = read_map(folder / QUALITY)
    camera = read_map(folder / EXTRINSICS)
    try:
        return _build(quality, camera)
    except (KeyError, TypeError, ValueError) as error:
        raise results_unreadable(folder, f"an entry is missing or wrong ({error})") from None


def _build(quality: dict, camera: dict) -> SolveQuality:
    frames = [int(number) for number in camera["frame_numbers"]]
    errors = [_number(error) for error in quality["per_frame_rms_px"]]
    errors += [None] * (len(frames) - len(errors))
    verdict = str(quality["verdict"])
    if verdict not in VERDICTS:
        raise ValueError(f"verdict {verdict!r}")
    warnings = [(str(w["message"]), str(w.get("hint", ""))) for w in quality.get("warnings", [])]
    return SolveQuality(
        verdict=verdict,
        usable=is_usable(quality, camera),
        reasons=[str(reason) for reason in quality.get("reasons", [])],
        warnings=warnings,
        status=str(camera.get("status", "")),
        method=str(camera.get("solving_method", "")),
        rms_px=_number(quality.get("rms_px")) or 0.0,
        frames=frames,
        errors=errors[: len(frames)],
        facts=_facts(quality, camera),
        width=int(camera["image_width"]),
        height=int(camera["image_height"]),
        fps=float(camera["fps"]),
    )


def _facts(quality: dict, camera: dict) -> list[tuple[str, str]]:
    focal = [float(f) for f in camera["focal_length_px_per_frame"]]
    width = camera["image_width"]
    low, high = min(focal), max(focal)
    span = f"{low:.1f}" if high - low < 0.05 else f"{low:.1f}-{high:.1f}"
    angle = 2 * math.degrees(math.atan(width / (2 * camera["focal_length_px"])))
    facts = [("Focal length", f"{span} px ({angle:.1f}\u00b0 across)")]
    profile = quality.get("focal_profile")
    if isinstance(profile, dict):
        facts.append(("Lens", "certain" if profile.get("observable") else "uncertain"))
    facts.append(("Scale", "metres" if camera["scale_is_metric"] else "arbitrary"))
    for label, key, form in (
        ("Coverage", "coverage", "{:.0%} of the picture"),
        ("Moving", "moving_share", "{:.0%} of the picture"),
        ("Parallax", "baseline_to_depth", "{:.3f} of the depth"),
        ("Points", "num_points", "{:.0f}"),
    ):
        value = _number(quality.get(key))
        if value is not None:
            facts.append((label, form.format(value)))
    return facts


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
