"""Whether hand-written GPU kernels can stand in for plain torch.

Every one of them has a plain-torch twin where it is used, with the same result up to rounding; the
twin runs on CPUs, where Triton is not installed, and wherever a gradient is wanted.
"""

from __future__ import annotations

from types import ModuleType

import torch

try:
    from megasam_server.models import triton_kernels
except ImportError:  # no Triton, e.g. on Windows
    triton_kernels = None


def kernels_for(*tensors: torch.Tensor) -> ModuleType | None:
    """The kernels (:mod:`megasam_server.models.triton_kernels`), or None: use plain torch."""
    if triton_kernels is None or not all(tensor.is_cuda for tensor in tensors):
        return None
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return None
    return triton_kernels
