"""The kernel that casts rays equals its plain-torch twin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")


def test_rays_meet_the_same_surfaces():
    """On the GPU where there is one, else in Triton's interpreter."""
    on_gpu = torch.cuda.is_available()
    env = os.environ | ({} if on_gpu else {"TRITON_INTERPRET": "1"})
    program = [sys.executable, str(Path(__file__).with_name("ray_twins.py"))]
    done = subprocess.run(
        program + (["cuda"] if on_gpu else []), env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 6
