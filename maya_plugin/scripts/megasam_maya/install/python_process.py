"""Another Python, run for its answer: nothing of this session, and no window, gets in its way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# CREATE_NO_WINDOW: no console pops up on Windows.
_NO_WINDOW = 0x08000000 if sys.platform == "win32" else 0


@dataclass(frozen=True)
class Outcome:
    """``said``: what it wrote last where errors go, else to its output, or why it did not run."""

    succeeded: bool
    said: str


def run_python(python: Path, arguments: Sequence[str], timeout: float) -> Outcome:
    """Run ``python`` with ``arguments``, for at most ``timeout`` s."""
    try:
        done = subprocess.run(
            [str(python), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_clean_environment(),
            creationflags=_NO_WINDOW,
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Outcome(False, str(error))
    said = done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}"
    return Outcome(done.returncode == 0, said)


def _clean_environment() -> dict[str, str]:
    """This process's environment without PYTHONHOME, PYTHONPATH and the like: what a person set
    up for another Python stops mayapy from starting."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith("PYTHON")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}
