"""A package called lietorch that a test writes itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def run_with_lietorch(tmp_path) -> Callable[[dict[str, str], str], str]:
    """``run_with_lietorch(files, code)``: what ``code`` prints in a process that finds these files as lietorch."""

    def run(files: dict[str, str], code: str) -> str:
        for name, text in files.items():
            (tmp_path / "lietorch").mkdir(exist_ok=True)
            (tmp_path / "lietorch" / name).write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
