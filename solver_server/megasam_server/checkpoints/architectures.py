"""The networks that checkpoints are loaded into, and the names that their authors gave the weights.

Importing this module imports torch and the networks; what must do without imports it when needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from megasam_server.checkpoints.fit import Shapes
from megasam_server.models import raft_keys
from megasam_server.models.depth_anything import DepthAnything
from megasam_server.models.droid_net import DroidNet
from megasam_server.models.raft import RaftFlow
from megasam_server.models.unidepth import UniDepthV2

State = Mapping[str, Tensor]

_HEADS_OF_TWO_CHANNELS = ("update.weight.2.", "update.delta.2.")
_RAFT_PREFIX = "network."


def _as_it_is(state: State) -> State:
    return state


def _as_published(state: State, _: Iterable[str]) -> State:
    return state


@dataclass(frozen=True)
class Architecture:
    """One network.

    Attributes:
        build: makes the module, with any weights.
        tidy: the state dict of a file -> as most are published: without what some have too much, and
            under the official names where others are known.
        to_official: the module's state dict -> the same under the names of the published file.
        from_official: a published state dict and the names of the module's -> the module's.
    """

    build: Callable[[], nn.Module]
    tidy: Callable[[State], State] = _as_it_is
    to_official: Callable[[State], State] = _as_it_is
    from_official: Callable[[State, Iterable[str]], State] = _as_published


def _two_channel_heads(state: State) -> State:
    """The heads of DROID-SLAM's own file have a third output channel, which is never read."""
    return {
        name: tensor[:2]
        if name.startswith(_HEADS_OF_TWO_CHANNELS) and tensor.ndim and len(tensor) == 3
        else tensor
        for name, tensor in state.items()
    }


def _raft_to_official(state: State) -> State:
    return raft_keys.to_official({n.removeprefix(_RAFT_PREFIX): t for n, t in state.items()})


def _raft_from_official(state: State, names: Iterable[str]) -> State:
    layers = [name.removeprefix(_RAFT_PREFIX) for name in names]
    tensors = raft_keys.from_official(state, layers)
    return {_RAFT_PREFIX + name: tensor for name, tensor in tensors.items()}


ARCHITECTURES: dict[str, Architecture] = {
    "droid": Architecture(DroidNet, tidy=_two_channel_heads),
    "raft": Architecture(
        RaftFlow,
        tidy=raft_keys.to_official,  # ours has torchvision's names; official ones stay as they are
        to_official=_raft_to_official,
        from_official=_raft_from_official,
    ),
    "depth_anything_v1_vitl": Architecture(partial(DepthAnything, "vitl", 1)),
    "depth_anything_v2_vits": Architecture(partial(DepthAnything, "vits", 2)),
    "depth_anything_v2_vitb": Architecture(partial(DepthAnything, "vitb", 2)),
    "depth_anything_v2_vitl": Architecture(partial(DepthAnything, "vitl", 2)),
    "unidepth_v2_vits": Architecture(partial(UniDepthV2, "vits")),
    "unidepth_v2_vitl": Architecture(partial(UniDepthV2, "vitl")),
}


@cache
def official_shapes(network: str) -> Shapes:
    """Name and shape of every tensor in a published file of the network."""
    architecture = ARCHITECTURES[network]
    with torch.device("meta"):  # no memory, no time for weights that nobody reads
        state = architecture.to_official(architecture.build().state_dict())
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def build_with(architecture: Architecture, published: State) -> nn.Module:
    """The network with a published state dict that fits it (see :func:`official_shapes`).

    Weights in another precision are converted to the network's.
    """
    with _NoInitialisation():
        network = architecture.build()
    own = network.state_dict()
    loaded = architecture.from_official(published, own)
    # What the file holds takes the place of the weights, which were never written and so took no
    # memory: there is never a second copy. Strict: a weight that is not loaded is an error here.
    network.load_state_dict(
        {name: _laid_out_as(own[name], tensor) for name, tensor in loaded.items()}, assign=True
    )
    return network.eval().requires_grad_(False)


def _laid_out_as(own: Tensor, given: Tensor) -> Tensor:
    """``given`` in the type and order of memory of ``own``: itself, where it has them."""
    layout = torch.contiguous_format
    if own.ndim == 4 and own.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    return given.to(own.dtype).contiguous(memory_format=layout)


class _NoInitialisation(TorchFunctionMode):
    """Skips the random weights of new layers: seconds for the large networks, and never read."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)
