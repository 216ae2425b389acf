"""Weight files as their authors would save them, with weights of no meaning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from megasam_server.checkpoints.locate import CHECKPOINTS_VARIABLE

from tests.server.conftest import Ended

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of checkpoints of this test, and caches of its own."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture(scope="session")
def droid_state() -> dict[str, Any]:
    """As MegaSaM's file has it: names with ``module.``, heads of three channels."""
    torch = pytest.importorskip("torch")
    from megasam_server.checkpoints.architectures import official_shapes

    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, shape in official_shapes("droid").items():
        if name.startswith(("update.weight.2.", "update.delta.2.")):
            shape = (3, *shape[1:])
        state[f"module.{name}"] = torch.randn(shape, generator=generator)
    return state


@pytest.fixture(scope="session")
def raft_state() -> dict[str, Any]:
    """As RAFT's file has it: names with ``module.``, the shared normalisations twice."""
    torch = pytest.importorskip("torch")
    from megasam_server.checkpoints.architectures import official_shapes

    state = {}
    for name, shape in official_shapes("raft").items():
        counts = name.endswith("num_batches_tracked")
        state[f"module.{name}"] = torch.tensor(7) if counts else torch.rand(shape)
    for name in [name for name in state if ".norm3." in name]:
        state[name.replace(".norm3.", ".downsample.1.")] = state[name]
    return state


@pytest.fixture(scope="session")
def random_built_in(tmp_path_factory) -> Path:
    """A folder of weights of no meaning that can take the place of the built-in ones."""
    pytest.importorskip("torch")
    sys.path.insert(0, str(REPOSITORY / "tests" / "benchmarks"))
    try:
        from random_checkpoints import random_built_in_folder
    finally:
        sys.path.remove(str(REPOSITORY / "tests" / "benchmarks"))
    folder = tmp_path_factory.mktemp("random weights")
    random_built_in_folder(folder)
    return folder


@pytest.fixture
def megasam_with(tmp_path) -> Callable[..., Ended]:
    """Run ``megasam`` as a process whose table of checkpoints says other things."""

    def run(facts: Mapping[str, Any], *arguments: object, without: str = "") -> Ended:
        environment = os.environ | {
            "WITHOUT_PACKAGES": without,
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "COLUMNS": "200",
        }
        program = [sys.executable, "-m", "tests.server.checkpoints.published", json.dumps(facts)]
        done = subprocess.run(
            [*program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            cwd=REPOSITORY,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run
