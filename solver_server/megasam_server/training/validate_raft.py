"""How good weights of RAFT are: on held-out pairs.

python -m megasam_server.training.validate_raft --weights run/
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from megasam_server.models.raft import RaftFlow
from megasam_server.training.checkpoint_files import FINISHED, load_tensors
from megasam_server.training.flow_pairs import generate
from megasam_server.training.pieces import (
    HELD_OUT_SEED,
    held_out_bank,
    training_device,
    validation_options,
)
from megasam_server.training.texture_bank import TextureBank

ITERATIONS = 24
CLIPS = 4  # of a lot
PAIRS_AT_ONCE = 8
MOTIONS_PX = ((0, 5), (5, 20), (20, 60), (60, 400))


@torch.no_grad()
def validate(
    weights: dict[str, Tensor], bank: TextureBank, size: tuple[int, int], lots: int
) -> dict[str, float]:
    """End-point errors in pixels on ``lots`` times 24 held-out pairs: mean, and median and mean by
    motion; share within 1 px.

    Args:
        weights: a state of torchvision's ``raft_large``, float32.
        size: height and width of the pictures.
    """
    raft = RaftFlow()
    raft.network.load_state_dict(weights)
    raft.to(bank.device)
    errors, motions = [], []
    for k in range(lots):
        pairs = generate(bank, HELD_OUT_SEED + k, CLIPS, *size)
        for start in range(0, len(pairs.flow), PAIRS_AT_ONCE):
            some = slice(start, start + PAIRS_AT_ONCE)
            first, second = raft.encode(pairs.first[some]), raft.encode(pairs.second[some])
            flow = raft.flow(first, second, ITERATIONS).full
            error = (flow - pairs.flow[some]).norm(dim=1)
            errors.append(error[pairs.valid[some]][::7])
            motions.append(pairs.flow[some].norm(dim=1)[pairs.valid[some]][::7])
    error, motion = torch.cat(errors), torch.cat(motions)
    figures = {"error_px": error.mean().item(), "within_1px": (error < 1).float().mean().item()}
    for low, high in MOTIONS_PX:
        some = error[(motion >= low) & (motion < high)]
        figures[f"median_{low}_{high}px"] = some.median().item()
        figures[f"mean_{low}_{high}px"] = some.mean().item()
    return {key: round(value, 4) for key, value in figures.items()}


def main() -> None:
    options = validation_options(__doc__.splitlines()[0], size=(384, 512)).parse_args()
    device = training_device(options.device)
    torch.set_float32_matmul_precision("high")  # as at the end of training
    bank = held_out_bank(options, device, os.cpu_count() or 1)
    weights = {key: x.float() for key, x in load_tensors(options.weights, FINISHED).items()}
    size = options.height, options.width
    for name, value in validate(weights, bank, size, options.held_out).items():
        print(f"{name:20} {value:9.4f}")


if __name__ == "__main__":
    main()
