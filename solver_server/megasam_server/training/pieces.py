"""What every training run has: a piece bounded in time, its learning rate, its log, its average.

A run is trained in pieces, each of them a process that goes on from the files of the last.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from megasam_server.training.checkpoint_files import append_row
from megasam_server.training.texture_bank import SIZE, TextureBank, paint_pictures

AVERAGING = 0.999
WARM_UP_STEPS = 300
SAVE_MINUTES = 2.0
HELD_OUT_SEED = 1_000_000_000
TEXTURES = 384


def piece_options(
    description: str, batch: int, size: tuple[int, int], rate: float
) -> argparse.ArgumentParser:
    """The options that all runs share; defaults of batch, (height, width) and learning rate."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--minutes", type=float, required=True, help="of training alone")
    parser.add_argument("--batch", type=int, default=batch, help="a step's")
    parser.add_argument("--height", type=int, default=size[0])
    parser.add_argument("--width", type=int, default=size[1])
    parser.add_argument("--lr", type=float, default=rate)
    parser.add_argument("--lr-end", type=float, default=1e-5)
    parser.add_argument("--warm-up", type=int, default=WARM_UP_STEPS, help="steps of the optimiser")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--textures", type=int, default=TEXTURES)
    parser.add_argument("--texture-size", type=int, default=SIZE, help="a power of two")
    parser.add_argument("--clips", type=int, default=8, help="scenes filmed at once")
    parser.add_argument("--reuse", type=float, default=4.0, help="uses of what is generated")
    parser.add_argument("--held-out", type=int, default=9, help="lots to validate with")
    parser.add_argument("--log-seconds", type=float, default=20.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--type",
        choices=("float32", "float16", "bfloat16"),
        help="of the working copy; float16 on CUDA, else float32",
    )
    return parser


def validation_options(description: str, size: tuple[int, int]) -> argparse.ArgumentParser:
    """The options of a validation by itself; ``size``: default (height, width)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--weights", type=Path, required=True, help="folder of a run")
    parser.add_argument("--held-out", type=int, default=9, help="lots to validate with")
    parser.add_argument("--height", type=int, default=size[0])
    parser.add_argument("--width", type=int, default=size[1])
    parser.add_argument("--textures", type=int, default=TEXTURES, help="as in training")
    parser.add_argument("--texture-size", type=int, default=SIZE)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def training_device(name: str) -> torch.device:
    """The device of this process, made ready; ``torchrun`` gives each process a GPU of its own."""
    device = torch.device(name)
    if device.type == "cuda":
        own = int(os.environ.get("LOCAL_RANK", 0))
        device = torch.device("cuda", own if device.index is None else device.index)
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    return device


def working_type(options: argparse.Namespace) -> torch.dtype:
    """What forward and backward pass compute in."""
    usual = "float16" if torch.device(options.device).type == "cuda" else "float32"
    return getattr(torch, options.type or usual)


def training_bank(options: argparse.Namespace, device: torch.device, workers: int) -> TextureBank:
    """The textures of the training scenes."""
    pictures = paint_pictures(options.textures, options.seed, workers, options.texture_size)
    return TextureBank(pictures, device)


def held_out_bank(options: argparse.Namespace, device: torch.device, workers: int) -> TextureBank:
    """Textures that training never sees."""
    count = max(1, options.textures // 4)
    return TextureBank(paint_pictures(count, HELD_OUT_SEED, workers, options.texture_size), device)


class Clock:
    """How much of a piece is over, and the learning rate that belongs to it: it falls linearly over
    the minutes from ``lr`` to ``lr_end``, after a warm-up where an optimiser begins."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._began = time.monotonic()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self._began) / 60

    @property
    def done(self) -> float:
        """0 at the start, 1 or more when the time is over."""
        return self.minutes / self._options.minutes

    def rate(self, step: int) -> float:
        """``step``: of the optimiser; a run that goes on from finished weights alone has a new one."""
        options = self._options
        rate = options.lr + (options.lr_end - options.lr) * min(self.done, 1.0)
        return rate * min(1.0, (step + 1) / max(1, options.warm_up))


class Saving:
    """Calls ``save`` every ``SAVE_MINUTES``: what a killed run loses at most."""

    def __init__(self, clock: Clock, save: Callable[[], None]) -> None:
        self._clock, self._save = clock, save
        self._saved = 0.0

    def step(self) -> None:
        """Count a step."""
        if self._clock.minutes - self._saved > SAVE_MINUTES:
            self._save()
            self._saved = self._clock.minutes


class Diary:
    """``training.csv`` and standard output: every ``log_seconds`` the means since the last row."""

    def __init__(self, options: argparse.Namespace, clock: Clock) -> None:
        self._options, self._clock = options, clock
        self._noted = time.monotonic()
        self._figures: list[dict[str, Tensor]] = []

    def step(self, step: int, rate: float, figures: dict[str, Tensor]) -> None:
        """Count a step; ``figures`` are scalars, not a number where unknown, read when a row is due."""
        self._figures.append({name: value.detach() for name, value in figures.items()})
        now = time.monotonic()
        if now - self._noted <= self._options.log_seconds:
            return
        row = {"step": step, "minutes": round(self._clock.minutes, 3), "lr": f"{rate:.2e}"}
        for name in figures:
            values = torch.stack([noted[name].float().cpu() for noted in self._figures])
            row[name] = round(float(values.nanmean()), 4)
        row["steps_per_second"] = round(len(self._figures) / (now - self._noted), 2)
        append_row(self._options.out / "training.csv", row)
        print(row, flush=True)
        self._noted, self._figures = now, []


@torch.no_grad()
def follow(average: dict[str, Tensor], model: torch.nn.Module, steps: int) -> None:
    """Exponential moving average of everything in the state, integers copied.

    ``steps``: of this piece. It averages over a tenth of them: what a stage starts to train would
    long remember how it began.
    """
    keep = min(AVERAGING, (steps + 1) / (steps + 10))
    state = model.state_dict()
    floats = [key for key in average if average[key].is_floating_point()]
    torch._foreach_lerp_([average[k] for k in floats], [state[k] for k in floats], 1 - keep)
    for key in average.keys() - set(floats):
        average[key].copy_(state[key])
