"""Seconds of each step of the dense tracker, with random weights: what it costs, not what it finds.

    python tests/benchmarks/tracker_gpu.py [--device cuda] [--frames 100] [--type float16] [--quick]

Two clips of noise at 384x512: one where no frame moves enough, so that keyframes are eight at even
distances and the others are filled in, and one where every frame is a keyframe. Columns: seconds of
the step, the same in ms for each frame of the clip, and the most memory allocated so far (CUDA only). A
short clip is tracked first, so that nothing is compiled or tried out during the measurement.

    python tests/benchmarks/tracker_gpu.py --profile [--frames 100]

One step of the adjustment of all frames instead, 336x592 as a plate of 1920x1080 becomes: its parts,
beside those with the correlation formed whole; its convolutions; and its kernels.

``--quick`` makes everything tiny, for ``--device cpu`` with ``--type float32``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator

import torch
from adjustment_profile import print_profile
from megasam_server.models.droid_net import DroidNet
from megasam_server.tracking.dense_slam.frames import TrackingFrame
from megasam_server.tracking.dense_slam.options import TrackerOptions
from megasam_server.tracking.dense_slam.tracker import Tracker
from network_rows import randomise


def noise(count: int, height: int, width: int) -> list[TrackingFrame]:
    """Frames without a prior."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator
    )
    return [TrackingFrame(image) for image in images]


def steps(tracker: Tracker, count: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """What :meth:`Tracker.run` does, one after the other."""

    def follow() -> None:
        for number in range(count):
            tracker.follow(number)
        tracker.finish_following()

    yield "follow the clip", follow
    yield "adjust the keyframes", tracker.adjust_keyframes
    yield "place all frames", tracker.place_all_frames
    yield "adjust all frames", tracker.adjust_all_frames


def measure(
    network: DroidNet, frames: list[TrackingFrame], device: torch.device, threshold: float
) -> list[list[str]]:
    """Rows of the table; ``threshold`` of the motion filter, 1/8 pixels."""
    height, width = frames[0].image.shape[1:]
    intrinsics = torch.tensor([width, width, width / 2, height / 2])
    options = TrackerOptions(
        filter_threshold=threshold,
        keyframe_threshold=0.0,
        feature_dtype=next(network.parameters()).dtype,
    )
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    tracker = Tracker(frames, intrinsics, network, options, device)
    rows = []
    for name, step in steps(tracker, len(frames)):
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        peak = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if on_gpu else "-"
        each = f"{1000 * seconds / len(frames):.1f}"
        rows.append([name, str(len(tracker.store)), f"{seconds:.2f}", each, peak])
    return rows


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--type", default="float16", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; to try it out: --device cpu --type float32 --quick")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    large = (336, 592) if options.profile else (384, 512)
    count, height, width = (10, 64, 96) if options.quick else (options.frames, *large)
    frames = noise(count, height, width)
    network = randomise(DroidNet()).to(device, getattr(torch, options.type))
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    clip = f"{count} frames of {height}x{width}, {options.type}"
    print(f"{machine}, torch {torch.__version__}: {clip}\n")
    if options.profile:
        print_profile(network, frames, device)
        return
    print("| step | keyframes | seconds | ms a frame | MiB |\n|---|---|---|---|---|")
    measure(network, frames[:10], device, math.inf)
    for threshold in (math.inf, 0.0):
        for row in measure(network, frames, device, threshold):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
