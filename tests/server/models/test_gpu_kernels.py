"""The GPU kernels equal their plain-torch twins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from megasam_server.models.gpu_kernels import kernels_for  # noqa: E402


def test_kernels_equal_plain_torch():
    """On the GPU where there is one, else in Triton's interpreter."""
    on_gpu = torch.cuda.is_available()
    env = os.environ | ({} if on_gpu else {"TRITON_INTERPRET": "1"})
    program = [sys.executable, str(Path(__file__).with_name("kernel_twins.py"))]
    done = subprocess.run(
        program + (["cuda"] if on_gpu else []), env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 35


def test_tensors_on_the_cpu_use_plain_torch():
    assert kernels_for(torch.zeros(1)) is None
