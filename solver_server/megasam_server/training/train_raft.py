"""Train RAFT from generated pairs, in pieces: each goes on from the files of the last.

    python -m megasam_server.training.train_raft --minutes 9 --out run/
    python -m megasam_server.training.train_raft --minutes 9 --out run/ --resume run/ --seed 2
    torchrun --nproc-per-node 2 -m megasam_server.training.train_raft --minutes 9 --out run/

The last one uses two GPUs; --batch is that of each.

Loss and schedule follow Teed and Deng (2020), section 3.3: L1 on all iterations, weights 0.85^(N-i);
the learning rate falls linearly over the minutes of the piece, from --lr to --lr-end.

A new run notes the statistics of the context encoder's batch norms; a piece that goes on keeps those
that it found, as the authors do after their first stage.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from torch import Tensor, nn
from torchvision.models.optical_flow import raft_large

from megasam_server.training.checkpoint_files import FINISHED, append_row, load_run, save_run
from megasam_server.training.flow_losses import flow_losses
from megasam_server.training.flow_pairs import FlowPairs, stream
from megasam_server.training.pieces import (
    Clock,
    Diary,
    Saving,
    follow,
    held_out_bank,
    piece_options,
    training_bank,
    training_device,
    working_type,
)
from megasam_server.training.recorded_losses import Losses, RecordedLosses
from megasam_server.training.replicas import Replicas
from megasam_server.training.validate_raft import validate
from megasam_server.training.working_copy import WorkingCopy

CLIP = 1.0


def main() -> None:
    options = _options()
    device = training_device(options.device)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(options.seed)
    replicas = Replicas(device)
    started = time.monotonic()
    workers = os.cpu_count() or 1
    bank = training_bank(options, device, workers)
    unseen = held_out_bank(options, device, workers) if replicas.first else None
    print(f"textures painted in {time.monotonic() - started:.0f} s", flush=True)
    master = raft_large().to(device, memory_format=torch.channels_last)
    # Fused, it skips steps with infinite gradients on the device, and nobody waits for that.
    optimiser = torch.optim.AdamW(master.parameters(), lr=options.lr, weight_decay=1e-5, fused=True)
    average = {key: tensor.clone() for key, tensor in master.state_dict().items()}
    step = 0
    if options.resume:
        step = load_run(options.resume, FINISHED, master, average, optimiser)
        master.eval()  # of all layers only the batch norms know the difference
    first_step = step
    copy = WorkingCopy(master, working_type(options))
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)

    def losses(*given: Tensor | int) -> Losses:
        *tensors, iterations = given
        return flow_losses(copy.network, FlowPairs(*tensors), iterations)

    recorded = RecordedLosses(losses, copy, scaler, device)
    size = options.height, options.width
    seed = options.seed + 10_000_000 * (1 + replicas.rank) + step
    batches = stream(bank, seed, options.batch, *size, clips=options.clips, reuse=options.reuse)

    def save() -> None:
        save_run(options.out, FINISHED, master, average, optimiser, step)

    clock = Clock(options)
    saving = Saving(clock, save)
    diary = Diary(options, clock)
    while True:
        done, rate = replicas.agreed(clock.done, clock.rate(step))
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate
        pairs = next(batches)
        figures = recorded.work_through(
            *(pairs.first, pairs.second, pairs.flow, pairs.valid), plan=options.iterations
        )
        replicas.average_gradients(master.parameters())
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(master.parameters(), CLIP)
        scaler.step(optimiser)
        scaler.update()
        copy.take_weights()
        if master.training:
            copy.hand_over_statistics()
        step += 1
        if replicas.first:
            follow(average, master, step - first_step)
            diary.step(step, rate, figures)
            saving.step()
    minutes = clock.minutes
    replicas.part()
    if unseen is None:
        return
    save()
    row = {"step": step, "minutes": round(minutes, 2)}
    row |= validate(average, unseen, size, options.held_out)
    append_row(options.out / "validation.csv", row)
    print(row, f"{(step - first_step) * options.batch * replicas.count} pairs", flush=True)


def _options() -> argparse.Namespace:
    parser = piece_options(__doc__.splitlines()[0], batch=8, size=(384, 512), rate=4e-4)
    # Larger lots keep a GPU busier while they are filmed.
    parser.set_defaults(clips=16, reuse=6.0)
    parser.add_argument("--iterations", type=int, default=12, help="of the update operator")
    return parser.parse_args()


if __name__ == "__main__":
    main()
