"""Whether hand-written GPU kernels can stand in for plain torch.

Every one of them has a plain-torch twin where it is used, with the same result up to rounding; the
twin runs on CPUs and where Triton is not installed.
"""

from __future__ import annotations

from types import ModuleType

import torch

try:
    from megasam_server.models import learning_kernels, triton_kernels
except ImportError:  # no Triton, e.g. on Windows
    learning_kernels = triton_kernels = None


def kernels_for(*tensors: torch.Tensor, learnable: bool = True) -> ModuleType | None:
    """The kernels (:mod:`megasam_server.models.triton_kernels`), where a gradient is wanted those that have
    one (:mod:`megasam_server.models.learning_kernels`), or None: use plain torch.

    ``learnable``: whether what is asked for exists with a gradient.
    """
    if triton_kernels is None or not all(tensor.is_cuda for tensor in tensors):
        return None
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return triton_kernels
    return learning_kernels if learnable else None
