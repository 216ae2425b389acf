"""Lots of generated data for ever: filmed by a thread of its own, and mixed into batches.

A lot is a dataclass of tensors whose first axis counts what is chosen from it, clips or pairs.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import TypeVar

import numpy as np
import torch

Lot = TypeVar("Lot")

# Before the first batch: one lot is of one make.
FEWEST_LOTS = 4


def filmed_ahead(film: Callable[[int], Lot], seed: int, device: torch.device) -> Iterator[Lot]:
    """``film`` of the seeds from ``seed`` on, called by a thread of its own: that waits for the device again and
    again, and training need not wait with it.

    Args:
        device: of the lots; on CUDA the thread has a stream of its own.
    """

    def film_beside(seed: int) -> Lot:
        with torch.cuda.stream(beside):
            filmed = film(seed)
        beside.synchronize()
        for field in fields(filmed):
            getattr(filmed, field.name).record_stream(training)
        return filmed

    on_gpu = device.type == "cuda"
    if on_gpu:
        beside = torch.cuda.Stream(device)
        training = torch.cuda.current_stream(device)
        beside.wait_stream(training)  # the textures may be on their way
    work = film_beside if on_gpu else film
    pool = ThreadPoolExecutor(1, "filming")
    coming = pool.submit(work, seed)
    for following in itertools.count(seed + 1):
        lot = coming.result()
        coming = pool.submit(work, following)
        yield lot


def mixed(lots: Iterator[Lot], seed: int, batch: int, reuse: float, kept: int) -> Iterator[Lot]:
    """Batches for ever, each drawn from the last ``kept`` lots. Nothing waits for the device.

    Args:
        seed: of what is drawn.
        batch: number of a batch's clips or pairs.
        reuse: how often each is used, on the average.
    """
    held: deque[Lot] = deque(maxlen=kept)
    shuffle = np.random.default_rng(seed)
    owed = 0.0
    while True:
        while owed <= 0 or len(held) < min(FEWEST_LOTS, kept):
            held.append(next(lots))
            names = [field.name for field in fields(held[-1])]
            count = len(getattr(held[-1], names[0]))
            owed += reuse * count / batch
        owed -= 1
        chosen = [
            (held[a], b)
            for a, b in zip(
                shuffle.integers(len(held), size=batch).tolist(),
                shuffle.integers(count, size=batch).tolist(),
                strict=True,
            )
        ]
        yield type(held[-1])(
            *(torch.stack([getattr(lot, name)[b] for lot, b in chosen]) for name in names)
        )
