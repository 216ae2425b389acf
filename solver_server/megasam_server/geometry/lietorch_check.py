"""Which ``lietorch`` is installed: princeton-vl's, or the unrelated one of that name on PyPI."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# princeton-vl's package defines SE3 in this file; the other one does not have it.
SE3_FILE = "groups.py"
# What SE3 must offer to be of use.
SE3_METHODS = ("InitFromVec", "log", "inv", "retr")
SOURCE = "git+https://github.com/princeton-vl/lietorch.git"

# Imported in a process of its own: a compiled extension for another torch or CUDA may crash it.
_PROBE = f"""
import sys
import lietorch
missing = [name for name in {SE3_METHODS} if not hasattr(lietorch.SE3, name)]
sys.exit("its SE3 has no " + ", ".join(missing) if missing else 0)
"""
_PROBE_SECONDS = 60


@dataclass(frozen=True)
class LietorchState:
    """What was found, in one word and in a sentence for people.

    Attributes:
        kind: ``princeton`` (usable), ``unrelated`` (another package of that name), ``broken``
            (it is there and does not work) or ``absent``.
        message: what that means; ``hint``: what to do, empty when there is nothing to do.
    """

    kind: Literal["princeton", "unrelated", "broken", "absent"]
    message: str
    hint: str = ""


@functools.cache
def find_lietorch() -> LietorchState:
    """Look for ``lietorch`` without importing it into this process."""
    found = importlib.util.find_spec("lietorch")
    if found is None:
        return LietorchState("absent", "Not installed, and not needed: SE3 is built in.")
    if not any(
        (Path(folder) / SE3_FILE).exists() for folder in found.submodule_search_locations or ()
    ):
        return LietorchState(
            "unrelated",
            "The installed lietorch is the unrelated PyPI package of the same name, without SE3."
            " It is ignored; SE3 is built in.",
            f"pip uninstall lietorch. For princeton-vl's: pip install {SOURCE}",
        )
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECONDS
        )
        exit_code, output = probe.returncode, probe.stderr
    except subprocess.TimeoutExpired:
        exit_code, output = -1, f"no answer in {_PROBE_SECONDS} seconds"
    if exit_code == 0:
        return LietorchState("princeton", "princeton-vl's lietorch is installed and has SE3.")
    reason = (output.strip().splitlines() or [f"exit code {exit_code}"])[-1]
    return LietorchState(
        "broken",
        f"lietorch is installed but does not work ({reason}). It is ignored; SE3 is built in.",
        f"Build it for the installed torch: pip install --force-reinstall --no-deps {SOURCE}",
    )
