"""How good weights of the tracking network are: on held-out clips, and in the tracker itself.

    python -m megasam_server.training.validate_tracker --weights run/ [--track 4] [--situations orbit dolly]

First the loop of training from a cold start: errors of flow, of the adjusted state and of the poses,
what the confidence is worth, and how well movers are told from what stands still. Then, if asked for,
the whole tracker without depth prior, the focal length given: on ``--track`` generated clips, and on
rendered situations.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from megasam_server.geometry import se3
from megasam_server.models.droid_net import DroidNet
from megasam_server.raycast.situations import SITUATIONS
from megasam_server.training.checkpoint_files import TRACKER, load_tensors
from megasam_server.training.clips import CELL, film_clips
from megasam_server.training.pieces import (
    HELD_OUT_SEED,
    held_out_bank,
    training_device,
    validation_options,
)
from megasam_server.training.texture_bank import TextureBank
from megasam_server.training.track_clips import (
    TABLE_HEAD,
    generated_take,
    rendered_take,
    table_row,
    track,
)
from megasam_server.training.tracker_losses import inside, normalised_residual
from megasam_server.training.unrolling import ClipGraph, Lesson, Plan, cold_start, unroll

CLIPS, FRAMES, ITERATIONS = 4, 5, 14
MOTIONS_PX = ((0, 8), (8, 32), (32, 512))


def load_tracker(folder: Path) -> DroidNet:
    """The network with the finished weights of a run, float32, on the CPU."""
    network = DroidNet()
    network.load_state_dict(load_tensors(folder, TRACKER))
    return network.float().eval()


@torch.no_grad()
def validate(
    network: DroidNet, bank: TextureBank, size: tuple[int, int], lots: int
) -> dict[str, float]:
    """Figures of ``lots`` times four held-out clips, a third of them without movers.

    Returns:
        Of the last of 14 iterations, lengths in pixels: ``error_px`` mean, ``median_px`` and ``within_1px`` of the flow
        in the picture, and both by motion; ``state_px``, ``state_median_px`` of what the adjusted state induces where
        nothing moves; ``rotation_deg``, median over the frames; ``calibration``: residual over what the confidence
        expects, 1 is honest; ``confidence_rank``: rank correlation of confidence and -residual; ``motion_auc`` and
        ``motion_iou`` of the frames' movers, of the clips that have some.
    """
    device = bank.device
    graph = ClipGraph(CLIPS, FRAMES, (size[0] // CELL, size[1] // CELL), device)
    found: dict[str, list[Tensor]] = {}
    for k in range(lots):
        clips = film_clips(bank, HELD_OUT_SEED + k, CLIPS, FRAMES, *size, static=k % 3 == 2)
        for name, values in _measure(network, Lesson.of(clips, graph), graph).items():
            found.setdefault(name, []).append(values.float())
    all_of = {name: torch.cat(values) for name, values in found.items()}
    error, motion = all_of["error"], all_of["motion"]
    figures = {
        "error_px": error.mean(),
        "median_px": error.median(),
        "within_1px": (error < 1).float().mean(),
        "state_px": all_of["state"].mean(),
        "state_median_px": all_of["state"].median(),
        "rotation_deg": all_of["rotation"].median(),
        "calibration": all_of["normalised"].mean(),
        "confidence_rank": rank_correlation(all_of["weight"], -error),
        "motion_auc": area_under_curve(all_of["moving_probability"], all_of["moving"] > 0),
        "motion_iou": _overlap(all_of["moving_probability"] > 0.5, all_of["moving"] > 0),
    }
    for low, high in MOTIONS_PX:
        some = error[(motion >= low) & (motion < high)]
        figures[f"median_{low}_{high}px"] = some.median() if len(some) else error.new_tensor(0.0)
        figures[f"mean_{low}_{high}px"] = some.mean()
    return {name: round(float(value), 4) for name, value in figures.items()}


def _measure(network: DroidNet, lesson: Lesson, graph: ClipGraph) -> dict[str, Tensor]:
    """Flat values of one lot; of cells in the picture but for the movers' figures."""
    plan = Plan(1, run_in=ITERATIONS - 1, motion=True)
    (last,) = unroll(network, lesson, graph, cold_start(lesson, graph), plan)
    seen = lesson.valid & inside(lesson.target, graph.grid)
    residual = last.target - lesson.target
    off = (last.coords - lesson.rigid).norm(dim=-1)
    turned = se3.log(se3.relative(last.state.poses, lesson.truth.poses))[:, 3:].norm(dim=-1)
    probability = graph.sources.mean(last.output.static_probability[:, None])[:, 0]
    figures = {
        "error": CELL * residual.norm(dim=-1)[seen],
        "motion": CELL * (lesson.target - graph.grid).norm(dim=-1)[seen],
        "weight": last.output.weight.mean(-1)[seen],
        "normalised": normalised_residual(last.output.weight, residual).mean(-1)[seen],
        "state": CELL * off[seen & lesson.static],
        "rotation": torch.rad2deg(turned[graph.clips :]),
    }
    moving = graph.sources.mean((~lesson.static).float()[:, None])[:, 0] > 0
    some = moving.flatten(1).any(1) if moving.any() else moving.new_zeros(len(moving))
    return figures | {
        "moving_probability": 1 - probability[some].flatten(),
        "moving": moving[some].flatten(),
    }


def area_under_curve(score: Tensor, positive: Tensor) -> Tensor:
    """Chance that a positive scores higher than a negative; flat tensors."""
    rank = torch.argsort(torch.argsort(score)).double()
    positives, negatives = positive.sum(), (~positive).sum()
    above = rank[positive].sum() - positives * (positives - 1) / 2
    return above / (positives * negatives).clamp(min=1)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's, of flat tensors; ties in any order."""
    ranks = torch.stack([torch.argsort(torch.argsort(x)).double() for x in (a, b)])
    return torch.corrcoef(ranks)[0, 1]


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).sum() / (a | b).sum().clamp(min=1)


def main() -> None:
    parser = validation_options(__doc__.splitlines()[0], size=(240, 320))
    parser.add_argument("--track", type=int, default=0, help="how many generated clips")
    parser.add_argument("--situations", nargs="*", default=[], choices=list(SITUATIONS))
    parser.add_argument("--frames", type=int, default=24, help="of a tracked clip")
    options = parser.parse_args()
    device = training_device(options.device)
    bank = held_out_bank(options, device, os.cpu_count() or 1)
    network = load_tracker(options.weights).to(device)
    if device.type == "cuda":
        network = network.half()
    size = options.height, options.width
    if options.held_out:
        for name, value in validate(network, bank, size, options.held_out).items():
            print(f"{name:20} {value:9.4f}")
    takes = [
        *(
            generated_take(bank, HELD_OUT_SEED + 500 + k, options.frames, *size)
            for k in range(options.track)
        ),
        *(rendered_take(name, options.frames) for name in options.situations),
    ]
    if takes:
        print(TABLE_HEAD)
    for take in takes:
        print(table_row(take, track(take, network, device)), flush=True)


if __name__ == "__main__":
    main()
