"""Pairs of pictures with exact optical flow, generated as fast as they are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from megasam_server.training.film_faults import develop
from megasam_server.training.filming import flow, photograph, view
from megasam_server.training.filming_ahead import filmed_ahead, mixed
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
    kept: int = 24,
    reuse: float = 2.0,
) -> Iterator[FlowPairs]:
    """Batches for ever, mixed from the last ``kept`` generated lots.

    Args:
        clips: of a lot; six times as many pairs.
        reuse: how often each pair is used, on the average.
    """

    def film(lot: int) -> FlowPairs:
        return generate(bank, lot, clips, height, width)

    return mixed(filmed_ahead(film, seed, bank.device), seed, batch, reuse, kept)
