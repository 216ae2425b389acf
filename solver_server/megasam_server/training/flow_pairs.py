"""Pairs of pictures with exact optical flow, generated as fast as they are trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from megasam_server.training.film_faults import develop
from megasam_server.training.filming import flow, photograph, view
from megasam_server.training.random_scenes import MAKES, Draw, random_filming, random_scene
from megasam_server.training.texture_bank import TextureBank

FRAMES = 3
SAMPLES = 4
LARGEST_FLOW = 400.0


@dataclass(frozen=True)
class FlowPairs:
    """Attributes:
    first, second: RGB 0-255, uint8 [B,3,H,W].
    flow: pixels from first to second, occluded or not, float32 [B,2,H,W].
    valid: where it is defined, bool [B,H,W].
    """

    first: Tensor
    second: Tensor
    flow: Tensor
    valid: Tensor


def generate(
    bank: TextureBank, seed: int, clips: int, height: int, width: int, largest_step: float = 60.0
) -> FlowPairs:
    """Film ``clips`` scenes for three frames each; all six ordered pairs of them.

    The same arguments on the same device give the same pairs.

    Args:
        largest_step: fastest camera motion, pixels per frame; two frames apart doubles it.

    Returns:
        6 * clips pairs.
    """
    generator = torch.Generator(bank.device).manual_seed(seed)
    draw = Draw(clips, generator)
    make = MAKES[seed % len(MAKES)]
    scene = random_scene(make, bank.count, draw)
    step = draw.log_uniform(0.5, largest_step)
    filming = random_filming(make, height, width, step, draw)
    times = [torch.full((clips,), float(t), device=bank.device) for t in range(FRAMES)]
    shadows = bool((seed // len(MAKES)) % 2)
    frames = [photograph(scene, filming, bank, time, SAMPLES, shadows, generator) for time in times]
    pictures = develop(torch.stack(frames, 1), draw).to(torch.uint8)  # [B,T,3,H,W]
    views = [view(scene, filming, time) for time in times]
    first, second, flows, valid = [], [], [], []
    for i in range(FRAMES):
        for j in range(FRAMES):
            if i != j:
                moved, in_front = flow(filming, views[i], views[j])
                first.append(pictures[:, i])
                second.append(pictures[:, j])
                flows.append(moved)
                valid.append(in_front & (moved.abs().amax(1) < LARGEST_FLOW))
    return FlowPairs(torch.cat(first), torch.cat(second), torch.cat(flows), torch.cat(valid))


def stream(
    bank: TextureBank,
    seed: int,
    batch: int,
    height: int,
    width: int,
    clips: int = 8,
    kept: int = 8,
    reuse: int = 2,
) -> Iterator[FlowPairs]:
    """Batches for ever, mixed from the last ``kept`` generated lots.

    A lot costs more than one training step: each pair is used ``reuse`` times on the average.
    """
    lots: deque[FlowPairs] = deque(maxlen=kept)
    shuffle = torch.Generator(bank.device).manual_seed(seed)
    pairs = 6 * clips
    owed = 0.0
    while True:
        while owed <= 0 or len(lots) < 3:
            lots.append(generate(bank, seed, clips, height, width))
            owed += reuse * pairs / batch
            seed += 1
        size = (batch,)
        lot = torch.randint(len(lots), size, generator=shuffle, device=bank.device).tolist()
        row = torch.randint(pairs, size, generator=shuffle, device=bank.device).tolist()
        chosen = [(lots[a], b) for a, b in zip(lot, row, strict=True)]
        owed -= 1
        yield FlowPairs(
            torch.stack([lot.first[b] for lot, b in chosen]),
            torch.stack([lot.second[b] for lot, b in chosen]),
            torch.stack([lot.flow[b] for lot, b in chosen]),
            torch.stack([lot.valid[b] for lot, b in chosen]),
        )
