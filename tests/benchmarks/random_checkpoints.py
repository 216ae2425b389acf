"""Checkpoints with the names, shapes and formats of the published files, and random weights.

They make the engine megasam run from end to end where nobody may download the real ones; what it
finds with them means nothing, what it takes in time and memory does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from megasam_server.checkpoints.architectures import ARCHITECTURES
from megasam_server.checkpoints.locate import CHECKPOINTS_VARIABLE
from megasam_server.checkpoints.read import PARALLEL_PREFIX
from megasam_server.checkpoints.registry import BUILT_IN, find_checkpoint
from megasam_server.training.checkpoint_files import in_float16
from network_rows import randomise
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.server.checkpoints.published import facts_of, published  # noqa: E402

_TRAINED_IN_PARALLEL = ("droid", "raft")
_HEADS_OF_THREE_CHANNELS = ("update.weight.2.", "update.delta.2.")

Facts = dict[str, dict[str, Any]]


def random_checkpoint_folder(
    folder: Path, names: Iterable[str], dtype: torch.dtype | None = None
) -> Facts:
    """Write checkpoints of random weights (:func:`network_rows.randomise`, always the same).

    Args:
        folder: made where it is missing.
        names: of checkpoints in the registry, e.g. ``megasam``, ``depth_anything_v2_vitl``.
        dtype: that the weights are stored in; None: float32, as published.

    Returns:
        What the registry must say to take the files for the published ones: file name -> size and
        SHA-256, JSON types; for :func:`checkpoints_from`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {}
    for name in names:
        checkpoint = find_checkpoint(name)
        path = folder / checkpoint.files[0].name
        _save(_official_state(checkpoint.network, dtype), path)
        facts[path.name] = facts_of(path)
    return facts


def random_built_in_folder(folder: Path) -> None:
    """Write random weights in place of the built-in ones, as training saves them.

    For the environment variable :data:`megasam_server.checkpoints.locate.BUILT_IN_VARIABLE`.
    """
    for checkpoint in BUILT_IN:
        module = randomise(ARCHITECTURES[checkpoint.network].build())
        state = getattr(
            module, "network", module
        ).state_dict()  # RAFT is saved without our wrapping
        path = folder / checkpoint.files[0].name
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(in_float16(state), path)


@contextmanager
def checkpoints_from(folder: Path, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """In this block and this process, ``folder`` is where checkpoints are looked for, and its files
    are the published ones. Settings with a ``model_path`` still look there."""
    before = os.environ.get(CHECKPOINTS_VARIABLE)
    os.environ[CHECKPOINTS_VARIABLE] = str(folder)
    try:
        with published(facts):
            yield
    finally:
        if before is None:
            del os.environ[CHECKPOINTS_VARIABLE]
        else:
            os.environ[CHECKPOINTS_VARIABLE] = before


def _official_state(network: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A state dict as the authors' training saved it."""
    architecture = ARCHITECTURES[network]
    module = randomise(architecture.build())
    state = {
        name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        for name, tensor in architecture.to_official(module.state_dict()).items()
    }
    if network == "droid":
        state = {
            # Of two that are read; the authors' heads write one more.
            name: torch.cat([tensor, tensor[:1]])
            if name.startswith(_HEADS_OF_THREE_CHANNELS)
            else tensor
            for name, tensor in state.items()
        }
    prefix = PARALLEL_PREFIX if network in _TRAINED_IN_PARALLEL else ""
    return {prefix + name: tensor for name, tensor in state.items()}


def _save(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        # Tensors that share their memory cannot be in such a file.
        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
