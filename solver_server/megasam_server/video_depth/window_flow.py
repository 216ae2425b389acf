"""The flow of a window of frames, from its file to the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from megasam_server.flow.consistency import resize_flow
from megasam_server.flow.flow_store import FlowStore

_TRUSTED = 127  # of 255


def read_flow(
    flows: FlowStore, chosen: np.ndarray, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Flow float16 [P,2,height,width], pixels, and trust bool [P,height,width] of P pairs on a device.

    The host holds two pairs at a time: while one is on its way to the device, the next is read.

    Args:
        chosen: int [P], indices of pairs.
    """
    flow = torch.empty(len(chosen), 2, height, width, dtype=torch.float16, device=device)
    mask = torch.empty(len(chosen), height, width, dtype=torch.bool, device=device)
    slots = [_Slot(flows, device) for _ in range(2)]
    for row, pair in enumerate(chosen.tolist()):
        slots[row % 2].read(pair, flow[row], mask[row])
    return flow, mask


class _Slot:
    """Host memory for one pair at its stored size; pinned where a GPU takes it from there."""

    def __init__(self, flows: FlowStore, device: torch.device) -> None:
        self._flows, self._device = flows, device
        size = (flows.height, flows.width)
        pinned = device.type == "cuda"
        self._flow = torch.empty(2, *size, dtype=torch.float16, pin_memory=pinned)
        self._trust = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        self._taken = torch.cuda.Event() if pinned else None

    def read(self, pair: int, flow: Tensor, mask: Tensor) -> None:
        """Into ``flow`` [2,h,w] and ``mask`` [h,w], resized there if need be."""
        if self._taken is not None:
            self._taken.synchronize()
        self._flows.read_into(pair, self._flow.numpy(), self._trust.numpy())
        trust = self._trust.to(self._device, non_blocking=True)
        if flow.shape == self._flow.shape:
            flow.copy_(self._flow, non_blocking=True)
            torch.gt(trust, _TRUSTED, out=mask)
        else:
            stored = self._flow.to(self._device, non_blocking=True)
            flow.copy_(resize_flow(stored[None].float(), *flow.shape[1:])[0])
            trust = F.interpolate(trust[None, None].float(), mask.shape, mode="nearest-exact")
            torch.gt(trust[0, 0], _TRUSTED, out=mask)
        if self._taken is not None:
            self._taken.record()
