"""Film backs by camera and mode: the table that ships with the plug-in, and the user's own.

A user's table is ``film_backs.json`` in the config folder, in the form of the one beside this
module: a list of maps with ``name``, ``width_mm`` and ``height_mm``. An entry with a name that
ships too replaces that one.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from megasam_shared.config_folder import config_folder
from megasam_shared.errors import MegasamError

SHIPPED = Path(__file__).with_name("film_backs.json")
USER_FILE_NAME = "film_backs.json"


@dataclass(frozen=True)
class FilmBackPreset:
    """The part of a sensor or film that a camera mode records, millimetres."""

    name: str
    width_mm: float
    height_mm: float


def user_table() -> Path:
    """The file that users extend; it need not exist."""
    return config_folder() / USER_FILE_NAME


def film_back_presets() -> list[FilmBackPreset]:
    """All film backs, the user's first.

    Raises:
        MegasamError: ``film_back_table_invalid``: the user's table cannot be read.
    """
    shipped = _read(SHIPPED)
    own = _read(user_table()) if user_table().exists() else []
    names = {preset.name for preset in own}
    return own + [preset for preset in shipped if preset.name not in names]


def _read(path: Path) -> list[FilmBackPreset]:
    try:
        entries = json.loads(path.read_text("utf-8"))
        presets = [
            FilmBackPreset(str(e["name"]), float(e["width_mm"]), float(e["height_mm"]))
            for e in entries
        ]
        if not all(_is_size(p.width_mm) and _is_size(p.height_mm) for p in presets):
            raise ValueError("a width or height is not between 0.5 and 1000 mm")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise MegasamError(
            "film_back_table_invalid",
            f"The film backs in {path} cannot be read: {reason}.",
            'It is a list of entries like {"name": "...", "width_mm": 36.0, "height_mm": 24.0}.',
        ) from None
    return presets


def _is_size(value: float) -> bool:
    return math.isfinite(value) and 0.5 <= value <= 1000
