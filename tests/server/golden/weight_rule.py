"""Weights that everybody can make: each tensor from a generator seeded with its own key.

The rule of the golden vectors. The reference networks ran with these weights, so ours must give the
same numbers with them, and no checkpoint file is needed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_TOKENS = ("pos_embed", "cls_token", "mask_token")


def golden_array(key: str, shape: Iterable[int]) -> np.ndarray:
    """The tensor of one state-dict key, without ``module.`` prefix: float32, or int64 zeros for
    ``num_batches_tracked``.
    """
    shape = tuple(shape)
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    normal = np.asarray(rng.standard_normal(shape)).astype(np.float32)
    if last == "running_mean":
        return np.float32(0.01) * normal
    if last == "running_var":
        return 1 + np.float32(0.1) * np.abs(normal)
    if last in _TOKENS:
        return np.float32(0.1) * normal
    if len(shape) >= 2:
        return normal * np.float32(1 / math.sqrt(math.prod(shape[1:])))
    if last == "bias":
        return np.float32(0.01) * normal
    return 1 + np.float32(0.1) * normal


def golden_state_dict(
    shapes: Mapping[str, tuple[tuple[int, ...], str]],
) -> dict[str, torch.Tensor]:
    """Weights for a listing of key -> (shape, dtype name), as :func:`key_listing` gives it."""
    import torch

    state = {}
    for key, (shape, dtype) in shapes.items():
        tensor = torch.from_numpy(np.asarray(golden_array(key, shape)))
        assert str(tensor.dtype) == f"torch.{dtype}", f"{key}: the rule has no weights of {dtype}"
        state[key] = tensor
    return state


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    """A state dict's listing: key -> (shape, dtype name)."""
    return {
        key: (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in state.items()
    }


def key_listing(parsed: Mapping[str, Mapping]) -> dict[str, tuple[tuple[int, ...], str]]:
    """A parsed ``*_state_dict.json`` as :func:`shapes_of` would give it."""
    return {key: (tuple(entry["shape"]), entry["dtype"]) for key, entry in parsed.items()}


def fill_by_rule(module: torch.nn.Module) -> torch.nn.Module:
    """Load the rule's weights into ``module`` by its own keys, strictly; returns it in eval mode.

    For modules whose keys are the official ones. Others convert ``golden_state_dict`` of the
    official listing as they convert a checkpoint.
    """
    module.load_state_dict(golden_state_dict(shapes_of(module.state_dict())), strict=True)
    return module.eval()
