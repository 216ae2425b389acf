"""The functions of :mod:`megasam_server.models.triton_kernels` with gradients, for training.

Forward passes are the same kernels, but leave their inputs as they are. Each backward pass reads and
writes every value once and works the inner values out anew. Gradients of what all pixels share are
summed in float32, in pieces whose number does not depend on the device: the same every time.
"""

from __future__ import annotations

from megasam_server.models.learning_lookup import lookup_windows
from megasam_server.models.learning_norms import instance_norm, norm_gelu
from megasam_server.models.learning_pointwise import (
    bias_relu,
    blend_hidden,
    gated_mean,
    join,
    reset_hidden,
    shared_gelu,
)

__all__ = [
    "bias_relu",
    "blend_hidden",
    "gated_mean",
    "instance_norm",
    "join",
    "lookup_windows",
    "norm_gelu",
    "reset_hidden",
    "shared_gelu",
]
