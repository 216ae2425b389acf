"""Golden vectors: numbers of the reference that our networks and geometry must reproduce."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def _folder() -> Path:
    beside = Path(__file__).resolve().parents[3].parent / "shared" / "golden"
    return Path(os.environ.get("MEGASAM_GOLDEN", beside))


def _load(name: str) -> dict:
    folder = _folder()
    if not folder.is_dir():
        pytest.skip(f"no golden vectors in {folder} (set MEGASAM_GOLDEN to their folder)")
    arrays, text = folder / f"{name}.npz", folder / f"{name}.json"
    if arrays.is_file():
        with np.load(arrays, allow_pickle=False) as stored:
            return dict(stored)
    if text.is_file():
        return json.loads(text.read_text())
    # The folder is there: a missing file is a mistake, not a reason to skip.
    raise FileNotFoundError(f"neither {arrays} nor {text}")


@pytest.fixture
def golden() -> Callable[[str], dict]:
    """``golden("G10_se3")``: the arrays of that file, or the parsed JSON.

    The test is skipped where the folder of the vectors is absent. Tests that need torch begin with
    ``torch = pytest.importorskip("torch")``.
    """
    return _load
