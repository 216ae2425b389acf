"""Optical flow of RAFT's weights and of the flow stage beside OpenCV's DIS, against exact flow where it is known.

    python tests/benchmarks/flow_accuracy.py WEIGHTS CLIP_FOLDER... [--generated 24]

WEIGHTS: a folder with ``raft_fp16.*.safetensors`` of training, or such a file. CLIP_FOLDERs: clips
with ``poses.txt`` and ``camera.json``, or folders of them. Where a clip has depth (``depth/``: .npy
metres of a rendered clip, or 16-bit .png), flow is compared with what depth and poses induce on
static pixels; every clip is scored by its round trips. ``--generated``: held-out training pairs.

Methods: DIS; RAFT, from the two pictures alone; stage, as the engine computes it, from shorter steps to longer ones
and refined to parts of a pixel.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from megasam_server.flow.consistency import round_trip_error
from megasam_server.flow.network_flow import ITERATIONS, start_from
from megasam_server.flow.network_flow import STEPS as STAGE_STEPS
from megasam_server.flow.sub_pixel import grey, refine_flow
from megasam_server.geometry.two_view import TwoView, pixel_grid
from megasam_server.models.raft import RaftFlow
from megasam_server.training.checkpoint_files import FINISHED, load_tensors
from megasam_server.training.flow_pairs import generate
from megasam_server.training.pieces import HELD_OUT_SEED
from megasam_server.training.texture_bank import TextureBank, paint_pictures
from safetensors.torch import load_file
from torch import Tensor
from truth import TrueClip, find_clips

STEPS = (1, 4, 8, 15)
WITHIN_PX = 1.0


@dataclass(frozen=True)
class Pair:
    """Two pictures of a clip.

    Attributes:
        step: frames between them.
        picture: number of frames after the first -> uint8 RGB [H,W,3]; without a clip of the ends alone.
        in_clip: those between can be asked for as well.
        truth: exact flow float32 [H,W,2], not a number where unknown.
    """

    group: str
    step: int
    picture: Callable[[int], np.ndarray]
    in_clip: bool
    truth: np.ndarray | None

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        return self.picture(0), self.picture(self.step)


def induced_flow(clip: TrueClip, i: int, j: int) -> np.ndarray | None:
    """Flow from frame i to j of what stands still, float32 [H,W,2]; None without depth of i.

    Not a number where depth is unknown, where something moves, and where j cannot see the point:
    its depth there, where j has one, is less by more than 3 %.
    """
    depth = _depth(clip, i)
    if depth is None:
        return None
    height, width = depth.shape
    x, y = pixel_grid(height, width)
    view = TwoView.between(clip.cameras, i, j)
    infinity = view.at_infinity(x, y)
    near = 1 / np.where(depth > 0, depth, np.nan)  # inverse depth
    u, v = view.project(infinity, near)
    known = (u > 0) & (v > 0) & (u < width - 1) & (v < height - 1)
    if (clip.folder / "masks" / f"{i:06d}.png").exists():
        known &= ~clip.moving(i)
    there = _depth(clip, j)
    if there is not None:
        column, row = (np.where(known, at, 0).round().astype(int) for at in (u, v))
        seen = there[row, column]
        known &= (seen == 0) | (seen * view.arriving_inverse_depth(infinity, near) > 0.97)
    flow = np.stack([u - x, v - y], -1).astype(np.float32)
    flow[~known] = np.nan
    return flow


def _depth(clip: TrueClip, frame: int) -> np.ndarray | None:
    """Metres [H,W], 0 where unknown; None when the clip has none for this frame."""
    if (clip.folder / "depth" / f"{frame:06d}.npy").exists():
        return clip.depth(frame)
    file = clip.folder / "depth" / f"{frame:06d}.png"
    scale = json.loads((clip.folder / "camera.json").read_text()).get("depth_scale")
    if scale is None or not file.exists():
        return None
    return cv2.imread(str(file), cv2.IMREAD_UNCHANGED).astype(np.float32) / scale


def clip_pairs(clip: TrueClip, count: int) -> Iterator[Pair]:
    """``count`` pairs for each step, spread over the clip, from frames with depth where there are."""
    with_depth = clip.depth_frames()
    for step in STEPS:
        starts = [f for f in with_depth or range(len(clip.frames)) if f + step < len(clip.frames)]
        chosen = sorted({starts[k] for k in np.linspace(0, len(starts) - 1, count).astype(int)})
        for i in chosen:
            yield Pair(
                clip.name,
                step,
                lambda later, first=i: _picture(clip.frames[first + later]),
                True,
                induced_flow(clip, i, i + step),
            )


def generated_pairs(count: int) -> Iterator[Pair]:
    """Held-out training pairs of 384 x 512; the step is the number of frames between them."""
    bank = TextureBank(paint_pictures(64, HELD_OUT_SEED), "cpu")
    for lot in range(-(-count // 6)):
        pairs = generate(bank, HELD_OUT_SEED + 1000 + lot, 1, 384, 512)
        for k in range(6):
            flow = pairs.flow[k].permute(1, 2, 0).numpy().copy()
            flow[~pairs.valid[k].numpy()] = np.nan
            step = 2 if k in (1, 4) else 1
            ends = {0: pairs.first[k], step: pairs.second[k]}
            yield Pair(
                "generated",
                step,
                lambda later, ends=ends: ends[later].permute(1, 2, 0).numpy(),
                False,
                flow,
            )


def _picture(path: Path) -> np.ndarray:
    """RGB, cut to multiples of 8."""
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    height, width = (extent - extent % 8 for extent in picture.shape[:2])
    return picture[:height, :width]


def dis_flow(pair: Pair) -> tuple[Tensor, Tensor]:
    """Both directions, [2,H,W]."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pair.ends]
    flows = dis.calc(*grey, None), dis.calc(*grey[::-1], None)
    return tuple(torch.from_numpy(flow).permute(2, 0, 1) for flow in flows)


def raft_flow(network: RaftFlow, pair: Pair, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Both directions, [2,H,W]: as RAFT finds it from the two pictures alone, and as the flow stage does,
    which starts from shorter steps and refines what comes out."""
    tensors = {}
    features = {}

    def encoded(later: int):
        if later not in features:
            picture = torch.from_numpy(pair.picture(later)).permute(2, 0, 1)[None]
            tensors[later] = picture.to(device)
            features[later] = network.encode(tensors[later])
        return features[later]

    last = pair.step
    alone = [
        network.flow(encoded(a), encoded(b), ITERATIONS).full for a, b in ((0, last), (last, 0))
    ]
    there = back = None
    for step in [s for s in STAGE_STEPS if s <= last] if pair.in_clip else [last]:
        ends = (0, step), (last, last - step)
        starts = [flow and start_from(flow.low, step) for flow in (there, back)]
        there, back = (
            network.flow(encoded(a), encoded(b), ITERATIONS, start)
            for (a, b), start in zip(ends, starts, strict=True)
        )
    first, second = (grey(tensors[later]) for later in (0, last))
    staged = refine_flow(there.full, first, second), refine_flow(back.full, second, first)
    return {
        method: tuple(flow[0].cpu() for flow in both)
        for method, both in (("RAFT", alone), ("stage", staged))
    }


def score(pair: Pair, there: Tensor, back: Tensor) -> dict[str, float]:
    """Error against the truth where it is known, and the share of consistent round trips."""
    around = round_trip_error(there[None], back[None])
    figures = {"round_trip": (around < WITHIN_PX).float().mean().item()}
    if pair.truth is not None:
        height, width = there.shape[1:]
        error = np.linalg.norm(
            there.permute(1, 2, 0).numpy() - pair.truth[:height, :width], axis=-1
        )
        known = error[np.isfinite(error)]
        if len(known) > 1000:
            figures |= {"median": float(np.median(known)), "mean": float(known.mean())}
    return figures


def load(weights: Path, device: str) -> RaftFlow:
    network = RaftFlow()
    state = load_file(weights) if weights.is_file() else load_tensors(weights, FINISHED)
    network.network.load_state_dict(state)
    return network.to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--generated", type=int, default=0, help="how many held-out pairs")
    parser.add_argument("--pairs", type=int, default=3, help="pairs for each clip and step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_intermixed_args()
    network = load(options.weights, options.device)
    figures: dict[tuple[str, int, str], list[dict[str, float]]] = defaultdict(list)

    def measure(pairs: Iterator[Pair]) -> None:
        for pair in pairs:
            key = pair.group, pair.step
            figures[*key, "DIS"].append(score(pair, *dis_flow(pair)))
            for method, both in raft_flow(network, pair, options.device).items():
                figures[*key, method].append(score(pair, *both))

    measure(generated_pairs(options.generated))
    for clip in find_clips(options.folders) if options.folders else []:
        measure(clip_pairs(clip, options.pairs))
    print(f"{'clip':28} step method  pairs   median     mean  round trip")
    for (group, step, method), found in figures.items():
        means = []
        for name in ("median", "mean", "round_trip"):
            values = [figure[name] for figure in found if name in figure]
            means.append(f"{np.mean(values):8.3f}" if values else "       -")
        print(f"{group:28} {step:4} {method:7} {len(found):5} {' '.join(means)}")


if __name__ == "__main__":
    main()
