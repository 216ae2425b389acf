"""Names of RAFT's weights: the official checkpoints' (``raft-things.pth``) and torchvision's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# torchvision's name -> the official one, applied in this order.
_RENAMINGS = [
    (re.compile(pattern), official)
    for pattern, official in [
        (r"^feature_encoder\.", "fnet."),
        (r"^context_encoder\.", "cnet."),
        (r"^([fc]net)\.convnormrelu\.0\.", r"\1.conv1."),
        (r"^([fc]net)\.convnormrelu\.1\.", r"\1.norm1."),
        (r"^([fc]net)\.conv\.", r"\1.conv2."),
        (r"\.convnormrelu([12])\.0\.", r".conv\1."),
        (r"\.convnormrelu([12])\.1\.", r".norm\1."),
        (r"\.motion_encoder\.convcorr([12])\.0\.", r".encoder.convc\1."),
        (r"\.motion_encoder\.convflow([12])\.0\.", r".encoder.convf\1."),
        (r"\.motion_encoder\.conv\.0\.", ".encoder.conv."),
        (r"\.recurrent_block\.convgru([12])\.conv([zrq])\.", r".gru.conv\2\1."),
        (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
        (r"^mask_predictor\.conv\.", "update_block.mask.2."),
    ]
]


def official_name(key: str) -> str:
    """The official name of one of torchvision's ``raft_large`` keys."""
    for pattern, official in _RENAMINGS:
        key = pattern.sub(official, key)
    return key


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's state dict under the official names (without the prefix ``module.``).

    The official network holds the normalisation of a downsampling twice, as ``norm3`` and as
    ``downsample.1``, so both names are there.
    """
    official = {}
    for key, value in state.items():
        name = official_name(key)
        official[name] = value
        if ".downsample.1." in name:
            official[name.replace(".downsample.1.", ".norm3.")] = value
    return official


def from_official(state: Mapping[str, Tensor], keys: Mapping[str, object]) -> dict[str, Tensor]:
    """An official state dict under torchvision's names; nothing is checked but that all are there.

    Where ``norm3`` and ``downsample.1`` differ, the latter counts: the official network loads it last.

    Args:
        state: official names, without the prefix ``module.``.
        keys: torchvision's names that are wanted: the network's own state dict.

    Raises:
        KeyError: an official name is missing.
    """
    return {key: state[official_name(key)] for key in keys}
