"""The files of a solve's result folder that the plug-in reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megasam_shared.errors import MegasamError

EXTRINSICS = "camera_extrinsics.json"
QUALITY = "quality.json"


def read_map(path: Path) -> dict[str, Any]:
    """What one of the JSON files holds.

    Raises:
        MegasamError: ``results_unreadable``.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise results_unreadable(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise results_unreadable(path, f"it is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise results_unreadable(path, "it holds no map")
    return content


def results_unreadable(path: Path, why: str) -> MegasamError:
    """The error for a file or folder that is not what a solve writes."""
    return MegasamError(
        "results_unreadable",
        f"{path} cannot be used as the result of a solve: {why}.",
        "Choose the folder that a solve wrote, or fetch the job again.",
    )
