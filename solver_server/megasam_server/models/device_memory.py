"""How much memory of a GPU this process can still take."""

from __future__ import annotations

import torch


def free_on(device: torch.device) -> int:
    """Bytes that are free, or held by this process's allocator and not used, up to the share of the
    device that the process is limited to.

    Args:
        device: CUDA; without an index the current one.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(index)
    used = torch.cuda.memory_allocated(index)
    free += torch.cuda.memory_reserved(index) - used
    allowed = torch.cuda.get_per_process_memory_fraction(index) * total - used
    return int(min(free, allowed))
