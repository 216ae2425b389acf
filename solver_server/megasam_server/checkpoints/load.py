"""A checkpoint's file -> its network, or one error that says all that does not fit."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from megasam_shared.errors import MegasamError

from megasam_server.checkpoints.fit import Fit, compare
from megasam_server.checkpoints.read import needs_packages, read_weights
from megasam_server.checkpoints.registry import CHECKPOINTS, Checkpoint, refuse_non_commercial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    State = Mapping[str, Tensor]


def load_network(checkpoint: Checkpoint, path: Path, commercial_only: bool = False) -> nn.Module:
    """The network of a checkpoint with the weights of ``path``, for inference, on the CPU.

    Weights stored in another precision are converted to that of the network (float32).

    Args:
        commercial_only: refuse a licence that forbids commercial use.

    Raises:
        MegasamError: ``checkpoint_not_commercial``, ``checkpoint_mismatch``, or what
            :func:`~megasam_server.checkpoints.read.read_weights` raises.
    """
    if commercial_only:
        refuse_non_commercial(checkpoint)
    state = official_state(checkpoint, path)
    architectures = _architectures()
    return architectures.build_with(architectures.ARCHITECTURES[checkpoint.network], state)


def official_state(checkpoint: Checkpoint, path: Path) -> State:
    """The weights in ``path`` under their official names, each of the shape the network wants.

    Raises:
        MegasamError: ``checkpoint_mismatch`` with everything that is missing, unexpected or of
            another shape, or what :func:`~megasam_server.checkpoints.read.read_weights` raises.
    """
    found = read_weights(path)
    state, fit = _fitted(found, checkpoint)
    if fit.exact:
        return state
    others = [other.title for other in CHECKPOINTS if _fitted(found, other)[1].exact]
    raise MegasamError(
        "checkpoint_mismatch",
        f"{path} does not hold the weights of {checkpoint.title}: {fit}.",
        f"They fit {' or '.join(others)}: give the file to `megasam checkpoints import`."
        if others
        else f"Take the file from {checkpoint.files[0].source}",
    )


def identify(path: Path) -> list[Checkpoint]:
    """The checkpoints whose network the weights in ``path`` fit; empty when there is none.

    More than one is possible: both versions of Depth Anything Large have the same shapes.

    Raises:
        MegasamError: what :func:`~megasam_server.checkpoints.read.read_weights` raises.
    """
    state = read_weights(path)
    return [checkpoint for checkpoint in CHECKPOINTS if _fitted(state, checkpoint)[1].exact]


def _fitted(state: State, checkpoint: Checkpoint) -> tuple[State, Fit]:
    """The tensors of a file as the checkpoint's network wants them, and what still differs."""
    architectures = _architectures()
    state = architectures.ARCHITECTURES[checkpoint.network].tidy(state)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return state, compare(shapes, architectures.official_shapes(checkpoint.network))


def _architectures() -> ModuleType:
    """The module of the networks: it needs packages that a server may do without."""
    try:
        from megasam_server.checkpoints import architectures
    except ImportError as error:
        raise needs_packages(error) from None
    return architectures
