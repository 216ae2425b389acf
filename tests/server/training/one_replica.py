"""One of the processes of a run, on the CPU: what it learnt from, and what was agreed on.

    torchrun --nproc-per-node 2 tests/server/training/one_replica.py FOLDER

Writes FOLDER/RANK.pt: its own gradients, their averages, and after one of them overflowed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from megasam_server.training.replicas import Replicas


def main(folder: Path) -> None:
    replicas = Replicas(torch.device("cpu"))
    # Gradients have the layout of their parameters; that of a convolution here is not the usual one.
    network = torch.nn.Conv2d(2, 3, 3, bias=False).to(memory_format=torch.channels_last)
    (weight,) = network.parameters()
    own = torch.randn(weight.shape, generator=torch.Generator().manual_seed(replicas.rank))
    weight.grad = own.clone(memory_format=torch.channels_last)
    replicas.average_gradients([weight])
    average = weight.grad.clone()
    weight.grad.fill_(float("inf") if replicas.rank == 1 else 0.0)
    replicas.average_gradients([weight])
    found = {
        "own": own,
        "average": average,
        "overflown": weight.grad,
        "agreed": replicas.agreed(replicas.rank + 0.5, 7.0),
        "first": replicas.first,
    }
    torch.save(found, folder / f"{replicas.rank}.pt")
    replicas.part()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
