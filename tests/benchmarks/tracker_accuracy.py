"""The dense tracker with weights of our own, without depth prior, against true cameras.

    python tests/benchmarks/tracker_accuracy.py WEIGHTS CLIP_FOLDER... [--frames 60] [--focal 0.9]
        [--situations orbit dolly]

WEIGHTS: a folder with ``tracker_fp16.*.safetensors`` of training. CLIP_FOLDERs: clips with
``poses.txt`` and ``camera.json``, or folders of them. The true focal length is given and held, unless
``--focal`` says where to start, in widths of the picture. Columns: keyframes; rotation error, RMS
degrees after the best common rotation; ATE (RMS position error after the best similarity) in % of the
true path and in units of the truth; overlap of the cells that were found moving with the true masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from megasam_server.geometry.camera import CameraPath
from megasam_server.raycast.situations import SITUATIONS
from megasam_server.training.track_clips import (
    TABLE_HEAD,
    TrueTake,
    rendered_take,
    sized_take,
    table_row,
    track,
)
from megasam_server.training.validate_tracker import load_tracker
from truth import TrueClip, find_clips


def take_of(clip: TrueClip, frames: int, resolution: int) -> TrueTake:
    """The first ``frames`` frames of a clip folder."""
    files = clip.frames[:frames]
    pictures = (cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files)
    masks = None
    if (clip.folder / "masks").is_dir():
        masks = (clip.moving(index) for index in range(len(files)))
    lens = clip.cameras.intrinsics
    each = {name: getattr(lens, name)[:frames] for name in ("fx", "fy", "cx", "cy")}
    cameras = CameraPath(clip.cameras.world_from_cam[:frames], replace(lens, **each))
    return sized_take(clip.name, pictures, cameras, masks, resolution)


def takes(options: argparse.Namespace) -> Iterator[TrueTake]:
    for clip in find_clips(options.folders) if options.folders else []:
        yield take_of(clip, options.frames, options.resolution)
    for name in options.situations:
        yield rendered_take(name, options.frames, options.resolution)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--situations", nargs="*", default=[], choices=list(SITUATIONS))
    parser.add_argument("--frames", type=int, default=1000, help="the first ones of each clip")
    parser.add_argument("--resolution", type=int, default=384, help="height of a 4:3 picture")
    parser.add_argument("--focal", type=float, help="to start from and refine, picture widths")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    network = load_tracker(options.weights).to(device)
    if device.type == "cuda":
        network = network.half()
    print(TABLE_HEAD)
    for take in takes(options):
        print(table_row(take, track(take, network, device, options.focal)), flush=True)


if __name__ == "__main__":
    main()
