"""Command line options for the settings of a solve, made from the one table of settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import typer
from megasam_shared.errors import MegasamError
from megasam_shared.field_spec import FieldSpec
from megasam_shared.settings import FIELDS, SolveSettings

_SHORT_NAMES = {
    "focal_length_px": "focal-px",
    "film_back_mm": "film-back",
    "quality_preset": "preset",
}
_AS_RANGE = ("first_frame", "last_frame")
_TYPES = {"int": int, "float": float, "bool": bool, "text": str}
_FRAMES = re.compile(r"(-?\d+)?-(-?\d+)?")


def with_settings_options(command: Callable) -> Callable:
    """Let a typer command take all settings as options.

    The command's parameter ``settings`` (keyword only) receives the
    :class:`SolveSettings`; every other parameter stays as it is.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.name != "settings"]
    options = [_option(spec) for name, spec in FIELDS.items() if name not in _AS_RANGE]
    frames = inspect.Parameter(
        "frames",
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(
            None, "--frames", metavar="A-B", help="Frames to solve, by the plate's own numbers."
        ),
        annotation=str | None,
    )

    def run(**values: Any) -> Any:
        first, last = parse_frames(values.pop("frames"))
        given = {name: values.pop(name) for name in FIELDS if name in values}
        given = {
            name: str(value) if isinstance(value, StrEnum) else value
            for name, value in given.items()
            if value is not None
        }
        settings = SolveSettings(first_frame=first, last_frame=last, **given)
        return command(settings=settings, **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=keyword) for p in own] + [frames] + options
    run.__signature__ = signature.replace(parameters=parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    return run


def settings_arguments(settings: SolveSettings, without: Sequence[str] = ()) -> list[str]:
    """The options that give a command these settings; those that are the preset's are left out.

    Args:
        without: names of settings that are given in another way.
    """
    usual = SolveSettings(quality_preset=settings.quality_preset)
    arguments = []
    for name, spec in FIELDS.items():
        value = getattr(settings, name)
        is_usual = value == getattr(usual, name) and name != "quality_preset"
        if is_usual or name in without or name in _AS_RANGE:
            continue
        flag = _flag(name)
        if spec.kind == "bool":
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            arguments.append(f"--{flag}={value}")
    ends = (settings.first_frame, settings.last_frame)
    first, last = ("" if end is None else str(end) for end in ends)
    if first or last:
        arguments.append(f"--frames={first}-{last}")
    return arguments


def _flag(name: str) -> str:
    return _SHORT_NAMES.get(name, name.replace("_", "-"))


def parse_frames(text: str | None) -> tuple[int | None, int | None]:
    """``A-B``, ``A-``, ``-B`` or one number ``A`` as first and last frame.

    Raises:
        MegasamError: ``setting_wrong_type``.
    """
    if text is None:
        return None, None
    if text.isdigit():
        return int(text), int(text)
    match = _FRAMES.fullmatch(text)
    if match is None or match.groups() == (None, None):
        raise MegasamError(
            "setting_wrong_type",
            f"--frames {text} is no range of frames.",
            "Write first and last frame by the plate's own numbers, e.g. --frames 1001-1120.",
        )
    first, last = (None if part is None else int(part) for part in match.groups())
    return first, last


def _option(spec: FieldSpec) -> inspect.Parameter:
    name = _flag(spec.name)
    flag = f"--{name}/--no-{name}" if spec.kind == "bool" else f"--{name}"
    extra: dict[str, Any] = {}
    kind = _TYPES.get(spec.kind)
    if kind is None:
        kind = StrEnum(spec.name, {choice: choice for choice in spec.choices})
    elif spec.unit:
        extra["metavar"] = spec.unit.upper()
    allowed = "" if spec.kind in ("bool", "text", "choice") else f" {spec.allowed}."
    option = typer.Option(
        None,
        flag,
        help=f"{spec.doc}{allowed}",
        rich_help_panel="Advanced" if spec.advanced else "Settings",
        show_default=False,
        **extra,
    )
    return inspect.Parameter(
        spec.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=option,
        annotation=kind | None,
    )
