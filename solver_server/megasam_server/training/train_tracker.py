"""Train the tracking network from generated clips, in pieces: each goes on from the files of the last.

    python -m megasam_server.training.train_tracker --stage 1 --minutes 7 --out run/
    python -m megasam_server.training.train_tracker --stage 2 --minutes 5 --out run/ --resume run/

Stage 1: the camera alone moves; flow and its confidence. Stage 2: things move too; the branch that
says what stands still, the damping of the disparities, and everything else further.

DROID-SLAM (Teed and Deng 2021, section 3.4) learns through its bundle adjustment alone, in a week on
four GPUs. Here flow and confidence are taught directly, the adjustment between the iterations makes
the states that the network sees, and only that after the last iteration is differentiated.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from torch import nn

from megasam_server.models.droid_net import DroidNet
from megasam_server.training.checkpoint_files import TRACKER, append_row, load_run, save_run
from megasam_server.training.clips import CELL, stream_clips
from megasam_server.training.exercise import Exercise
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
from megasam_server.training.unrolling import FIRST_ETA, ClipGraph, Lesson, Plan, random_start
from megasam_server.training.validate_tracker import validate
from megasam_server.training.working_copy import WorkingCopy

CLIP = 1.0
# Of the whole run: bundle adjustment needs a network that has seen something.
BUNDLE_FROM = 600
FIRST_ITERATIONS = 5
RUN_IN = 12
RUN_IN_EVERY = 3
STATIC_SHARE = {1: 1.0, 2: 0.2}


def main() -> None:
    options = _options()
    device = training_device(options.device)
    torch.manual_seed(options.seed)
    started = time.monotonic()
    workers = os.cpu_count() or 1
    bank = training_bank(options, device, workers)
    unseen = held_out_bank(options, device, workers)
    print(f"textures painted in {time.monotonic() - started:.0f} s", flush=True)
    copy = WorkingCopy(fresh_network().to(device), working_type(options))
    master = copy.master
    # Fused, it skips steps with infinite gradients on the device, and nobody waits for that.
    optimiser = torch.optim.AdamW(master.parameters(), lr=options.lr, weight_decay=1e-5, fused=True)
    average = {key: tensor.clone() for key, tensor in master.state_dict().items()}
    step = 0
    if options.resume:
        step = load_run(options.resume, TRACKER, master, average, optimiser)
        copy.take_weights()
    first_step = step
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    graph = ClipGraph(
        options.batch, options.frames, (options.height // CELL, options.width // CELL), device
    )
    exercise = Exercise(copy, graph, scaler, options.geometry)
    seed = options.seed + 10_000_000 + step
    batches = stream_clips(
        bank,
        seed,
        options.batch,
        (options.frames, options.height, options.width),
        STATIC_SHARE[options.stage],
        options.clips,
        options.reuse,
    )
    random = torch.Generator(device).manual_seed(seed)

    def save() -> None:
        save_run(options.out, TRACKER, master, average, optimiser, step)

    clock = Clock(options)
    saving = Saving(clock, save)
    diary = Diary(options, clock)
    while clock.done < 1 and (options.steps is None or step - first_step < options.steps):
        rate = clock.rate(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        lesson = Lesson.of(next(batches), graph)
        start = random_start(lesson, graph, random)
        figures = exercise.work_through(lesson, start, _plan(options, step))
        scaler.unscale_(optimiser)
        gradient = nn.utils.clip_grad_norm_(master.parameters(), CLIP)
        scaler.step(optimiser)
        scaler.update()
        copy.take_weights()
        step += 1
        follow(average, master, step - first_step)
        diary.step(step, rate, figures | {"gradient": gradient})
        saving.step()
    minutes = clock.minutes
    save()
    print(f"{(step - first_step) * options.batch} clips in {minutes:.2f} minutes", flush=True)
    copy.master.load_state_dict(average)
    copy.take_weights()
    size = options.height, options.width
    row = {"step": step, "stage": options.stage, "minutes": round(minutes, 2)}
    row |= validate(copy.network, unseen, size, options.held_out)
    append_row(options.out / "validation.csv", row)
    print(row, flush=True)


def fresh_network() -> DroidNet:
    """Random weights to start from: He's in the encoders; heads that say "stay", "not sure" and "static"."""
    network = DroidNet()
    for encoder in (network.fnet, network.cnet):
        for module in encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
    update = network.update
    softplus_of_eta = torch.tensor(FIRST_ETA / 0.01)
    heads = {
        update.delta[2]: 0.0,
        update.weight[2]: -3.0,
        update.agg.eta[0]: float(torch.log(torch.expm1(softplus_of_eta))),
        update.agg_motion.logits_2[2]: 2.0,
    }
    for head, bias in heads.items():
        nn.init.normal_(head.weight, std=1e-3)
        nn.init.constant_(head.bias, bias)
    return network


def _plan(options: argparse.Namespace, step: int) -> Plan:
    by_bundle = options.stage == 2 or step >= options.bundle_from
    long = by_bundle and step % RUN_IN_EVERY == 0
    iterations = options.iterations if by_bundle else min(options.iterations, FIRST_ITERATIONS)
    return Plan(iterations, RUN_IN if long else 0, by_bundle, motion=options.stage == 2)


def _options() -> argparse.Namespace:
    parser = piece_options(__doc__.splitlines()[0], batch=8, size=(240, 320), rate=4e-4)
    parser.set_defaults(clips=24, reuse=8.0)
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True)
    parser.add_argument("--frames", type=int, default=4, help="of a clip")
    parser.add_argument("--iterations", type=int, default=6, help="of the update operator")
    parser.add_argument("--bundle-from", type=int, default=BUNDLE_FROM, help="step")
    parser.add_argument(
        "--geometry",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="learn through the last bundle adjustment",
    )
    parser.add_argument("--steps", type=int, help="stop after these, whatever the time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
