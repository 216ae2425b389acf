"""Train RAFT from generated pairs, in pieces: each goes on from the files of the last.

    python -m megasam_server.training.train_raft --minutes 9 --out run/
    torchrun --nproc-per-node 2 -m megasam_server.training.train_raft --minutes 9 --out run/ --resume run/

Loss and schedule follow Teed and Deng (2020), section 3.3: L1 on all iterations, weights 0.85^(N-i);
the learning rate falls linearly over the minutes of the piece, from --lr to --lr-end.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.optical_flow import raft_large

from megasam_server.training.checkpoint_files import FINISHED, append_row, load_run, save_run
from megasam_server.training.flow_pairs import FlowPairs, generate, stream
from megasam_server.training.pieces import (
    HELD_OUT_SEED,
    Clock,
    Diary,
    follow,
    held_out_bank,
    piece_options,
    training_bank,
    training_device,
)
from megasam_server.training.texture_bank import TextureBank

ITERATIONS = 12
DISCOUNT = 0.85


def main() -> None:
    options = _options()
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = training_device(options.device)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(options.seed)
    started = time.monotonic()
    workers = max(1, (os.cpu_count() or 1) // ranks)
    bank = training_bank(options, device, workers)
    held_out = held_out_bank(options, device, workers) if rank == 0 else None
    print(f"textures painted in {time.monotonic() - started:.0f} s", flush=True)
    model = raft_large().to(device)
    model.corr_block.build_pyramid = _in_float32(model.corr_block.build_pyramid)
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=1e-5)
    average = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    step = 0
    if options.resume:
        step = load_run(options.resume, FINISHED, model, average, optimiser)
    first_step = step
    if options.compile:
        model.update_block.compile()
        model.feature_encoder.compile()
        model.context_encoder.compile()
    parallel = model
    if ranks > 1:
        dist.init_process_group("nccl")
        parallel = DistributedDataParallel(model, device_ids=[device.index])
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda", init_scale=1024.0)
    size = (options.height, options.width)
    seed = options.seed + 10_000_000 * (rank + 1) + step
    pairs = stream(bank, seed, options.batch, *size, clips=options.clips, reuse=options.reuse)
    model.train()
    clock = Clock(options)
    diary = Diary(options, clock)
    while True:
        over = clock.done >= 1
        if ranks > 1:  # all stop at the same step, by the first one's clock
            told = torch.tensor(over, device=device)
            dist.broadcast(told, 0)
            over = told.item()
        if over:
            break
        rate = clock.rate(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        lot = next(pairs)
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            flows = parallel(_scaled(lot.first), _scaled(lot.second), ITERATIONS)
        loss, error = sequence_loss(flows, lot)
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        step += 1
        follow(average, model, step - first_step)
        if rank == 0:
            diary.step(step, rate, {"loss": loss, "error_px": error})
    if rank == 0:
        save_run(options.out, FINISHED, model, average, optimiser, step)
        model.load_state_dict(average)
        row = {"step": step, "minutes": round(clock.minutes, 2)}
        row |= validate(model, held_out, options)
        append_row(options.out / "validation.csv", row)
        print(row, f"{(step - first_step) * options.batch * ranks} pairs", flush=True)
    if ranks > 1:
        dist.destroy_process_group()


def sequence_loss(flows: list[Tensor], pairs: FlowPairs) -> tuple[Tensor, Tensor]:
    """Discounted L1 over the iterations, and the end-point error of the last, in pixels."""
    valid = pairs.valid[:, None].float()
    count = valid.sum().clamp(min=1)
    loss = torch.zeros((), device=valid.device)
    for i, flow in enumerate(flows):
        difference = (flow.float() - pairs.flow).abs()
        loss = loss + DISCOUNT ** (len(flows) - 1 - i) * (difference * valid).sum() / (2 * count)
    error = (flows[-1].detach().float() - pairs.flow).norm(dim=1, keepdim=True)
    return loss, (error * valid).sum() / count


@torch.no_grad()
def validate(model: torch.nn.Module, bank: TextureBank, options) -> dict[str, float]:
    """End-point errors on held-out pairs: mean, and median and share within 1 px by motion."""
    model.eval()
    errors, motions = [], []
    for k in range(options.held_out):
        size = (options.height, options.width)
        pairs = generate(bank, HELD_OUT_SEED + k, 4, *size)
        for start in range(0, len(pairs.flow), 8):
            some = slice(start, start + 8)
            images = _scaled(pairs.first[some]), _scaled(pairs.second[some])
            flow = model(*images, num_flow_updates=24)[-1]
            error = (flow - pairs.flow[some]).norm(dim=1)
            errors.append(error[pairs.valid[some]][::7])
            motions.append(pairs.flow[some].norm(dim=1)[pairs.valid[some]][::7])
    error, motion = torch.cat(errors), torch.cat(motions)
    figures = {"error_px": error.mean().item(), "within_1px": (error < 1).float().mean().item()}
    for low, high in ((0, 5), (5, 20), (20, 60), (60, 400)):
        some = error[(motion >= low) & (motion < high)]
        figures[f"median_{low}_{high}px"] = some.median().item()
        figures[f"mean_{low}_{high}px"] = some.mean().item()
    return {key: round(value, 4) for key, value in figures.items()}


def _scaled(picture: Tensor) -> Tensor:
    """0-255 to -1..1, as RAFT wants it."""
    return picture.float() / 127.5 - 1.0


def _in_float32(build):
    """Correlations of unnormalised features overflow half precision."""

    def build_pyramid(first: Tensor, second: Tensor):
        with torch.autocast(first.device.type, enabled=False):
            return build(first.float(), second.float())

    return build_pyramid


def _options() -> argparse.Namespace:
    parser = piece_options(__doc__.splitlines()[0], batch=8, size=(384, 512), rate=4e-4)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
