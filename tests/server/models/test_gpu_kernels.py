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


@pytest.mark.parametrize(
    ("twins", "lines"),
    [
        ("kernel_twins.py", 20),
        pytest.param("learning_twins.py", 21, marks=pytest.mark.slow),
        pytest.param("../training/ray_twins.py", 6, marks=pytest.mark.slow),
    ],
)
def test_kernels_equal_plain_torch(twins, lines):
    """On the GPU where there is one, else in Triton's interpreter."""
    on_gpu = torch.cuda.is_available()
    env = os.environ | ({} if on_gpu else {"TRITON_INTERPRET": "1"})
    program = [sys.executable, str(Path(__file__).parent / twins)]
    done = subprocess.run(
        program + (["cuda"] if on_gpu else []), env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == lines


def test_tensors_on_the_cpu_use_plain_torch():
    assert kernels_for(torch.zeros(1)) is None
