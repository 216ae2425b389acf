"""The networks that checkpoints are loaded into, and the names that their authors gave the weights.

Importing this module imports torch; :mod:`megasam_server.checkpoints.load` does so when it must.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from megasam_server.checkpoints.fit import Shapes
from megasam_server.models.depth_anything import DepthAnything

State = Mapping[str, Tensor]


def _as_is(state: State) -> State:
    return state


@dataclass(frozen=True)
class Architecture:
    """One network.

    Attributes:
        build: makes the module, with any weights.
        to_official: its state dict -> the same under the names of the published file.
        from_official: the other way round.
        tidy: a published state dict -> without what published files may have too much.
    """

    build: Callable[[], nn.Module]
    to_official: Callable[[State], State] = _as_is
    from_official: Callable[[State], State] = _as_is
    tidy: Callable[[State], State] = _as_is


ARCHITECTURES: dict[str, Architecture] = {
    "depth_anything_v1_vitl": Architecture(partial(DepthAnything, "vitl", 1)),
    "depth_anything_v2_vits": Architecture(partial(DepthAnything, "vits", 2)),
    "depth_anything_v2_vitb": Architecture(partial(DepthAnything, "vitb", 2)),
    "depth_anything_v2_vitl": Architecture(partial(DepthAnything, "vitl", 2)),
}


@cache
def official_shapes(network: str) -> Shapes:
    """Name and shape of every tensor in a published file of the network."""
    architecture = ARCHITECTURES[network]
    with torch.device("meta"):
        state = architecture.to_official(architecture.build().state_dict())
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
