"""The whole engine megasam on a GPU: seconds and memory of each stage, and the errors of the camera.

    python tests/benchmarks/engine_gpu.py [--presets fast balanced best] [--frames 100]
        [--size 1920x1080] [--memory GIB] [--squeeze STAGE=GIB] [--repeat 2] [--device cuda] [--out DIR]

Every network runs in full with random weights of the true shapes and then answers with the truth
(:mod:`costly_doubles`), so keyframes, edges and the path are those of real footage, and errors tell whether
all of it worked. Clip: a walk through a rendered room, with a person who walks, too.

One table for each solve: stage; seconds, of which loading the network; ms a frame without loading; most GPU
memory that tensors held, MiB, and what the memory planner had predicted; resident memory of the
process above what it was before the solve. ``--memory`` limits the process to so much GPU memory,
as a smaller card would; ``--squeeze`` takes memory away while a stage runs, as another program would.
The plate is in the frame store already and results are not written: those stages are not measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from plate_by_opencv import stand_in_for_media

stand_in_for_media()

from costly_doubles import CostlyNetworks, Truth, with_number  # noqa: E402
from megasam_server.checkpoints.registry import find_checkpoint  # noqa: E402
from megasam_server.checkpoints.selection import Selection  # noqa: E402
from megasam_server.checkpoints.verify import CheckpointStatus  # noqa: E402
from megasam_server.geometry.trajectory import compare  # noqa: E402
from megasam_server.media.decode import solver_size  # noqa: E402
from megasam_server.media.frame_store import FrameStore, write_frame_store  # noqa: E402
from megasam_server.media.plate import PlateInfo  # noqa: E402
from megasam_server.models.device_memory import free_on  # noqa: E402
from megasam_server.pipeline import megasam_engine, preset_fit  # noqa: E402
from megasam_server.pipeline.engines import EngineChoice  # noqa: E402
from megasam_server.pipeline.footage import Footage, frame_store_long_side  # noqa: E402
from megasam_server.pipeline.job import SolveJob  # noqa: E402
from megasam_server.pipeline.out_of_memory import release_memory  # noqa: E402
from megasam_server.pipeline.progress import SilentProgress  # noqa: E402
from megasam_server.pipeline.stage_cache import StageCache  # noqa: E402
from megasam_server.pipeline.stage_meter import StageMeter  # noqa: E402
from megasam_server.raycast import sets  # noqa: E402
from megasam_server.raycast.camera_paths import handheld, look_at  # noqa: E402
from megasam_server.raycast.clip import RenderedClip, Take, render_clip  # noqa: E402
from megasam_server.raycast.render import Camera, Film  # noqa: E402
from megasam_server.raycast.scene import Person  # noqa: E402
from megasam_server.tracking.dense_slam.frame_size import MULTIPLE, FrameSize  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402
from megasam_shared.settings import SolveSettings  # noqa: E402

GIB = 2**30
FPS = 24.0
RENDERED_WIDTH = 240
FOCAL_PER_WIDTH = 0.9


@dataclass(frozen=True)
class Clip:
    """A plate's size and the rendered clip behind it, at a smaller size of the same aspect."""

    width: int
    height: int
    rendered: RenderedClip

    @classmethod
    def of(cls, width: int, height: int, count: int) -> Clip:
        def path(time: float) -> np.ndarray:
            eye = np.array(
                [-1.2 + 1.6 * np.sin(0.6 * time), -1.4, -2.6 + 0.9 * np.sin(0.25 * time)]
            )
            return look_at(eye, np.array([0.6 * np.sin(0.4 * time), -1.0, 2.8]))

        person = Person(lambda time: np.array([-0.6 + 0.3 * time, 0.2]), 1.76, seed=41)
        room = sets.furnished_room(23, width=6.4, depth=7.5, furniture=4)
        small = RENDERED_WIDTH, round(RENDERED_WIDTH * height / width)
        take = Take(
            "walk",
            replace(room, people=(person,)),
            Camera(
                *small, handheld(path, 41, 0.004, 0.15), lambda time: FOCAL_PER_WIDTH * small[0]
            ),
            Film(noise=1.0, samples=1),
            count,
            FPS,
            seed=2,
        )
        return cls(width, height, render_clip(take, workers=torch.get_num_threads()))

    def __len__(self) -> int:
        return len(self.rendered.rgb)

    def cells(self, size: tuple[int, int]) -> RenderedClip:
        """The same on the tracker's grid of a picture of ``size``, by the nearest rendered pixel."""
        width, height = (side // MULTIPLE for side in size)
        shape = self.rendered.depth.shape[1:]
        rows = ((np.arange(height) + 0.5) * shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * shape[1] / width).astype(int)
        at = np.ix_(range(len(self)), rows, columns)
        cameras = self.rendered.cameras.at_resolution(width, height)
        return replace(
            self.rendered,
            depth=self.rendered.depth[at],
            moving=self.rendered.moving[at],
            cameras=cameras,
        )

    def footage(self, settings: SolveSettings, folder: Path) -> Footage:
        size = solver_size(self.width, self.height, frame_store_long_side(settings))
        store = FrameStore(folder / f"{size[0]}.rgb", len(self), *size, 3)

        def frame(number: int) -> np.ndarray:
            large = cv2.resize(self.rendered.rgb[number], size, interpolation=cv2.INTER_CUBIC)
            return with_number(large, number)

        if not store.path.exists():
            with ThreadPoolExecutor() as pool:
                write_frame_store(store, pool.map(frame, range(len(self))))
        return Footage(self.plate, store, None, f"walk {size}")

    @property
    def plate(self) -> PlateInfo:
        numbers = list(range(1001, 1001 + len(self)))
        times = [k / FPS for k in range(len(self))]
        return PlateInfo("walk", "sequence", self.width, self.height, FPS, numbers, times, [], [])


def solve(
    clip: Clip,
    settings: SolveSettings,
    device: torch.device,
    squeeze: dict[str, int],
    folder: Path,
    roomy: bool = True,
) -> dict:
    """One solve, figures by stage; ``failed`` says why there are none.

    Args:
        roomy: there is memory for a table of the truth.
    """
    started = time.perf_counter()
    choice = EngineChoice(
        "megasam", "MegaSAM", "Solved with the megasam engine", selection=selected(settings)
    )
    if device.type == "cuda":
        release_memory()
        try:
            settings, choice = preset_fit.fitted_to_gpu(
                settings, choice, clip.plate, free_on(device)
            )
        except MegasamError as error:
            return failure(error, started)
    size = FrameSize.of_whole_plate(clip.width, clip.height, settings.tracking_resolution).cropped
    truth = Truth.of(clip.cells(size), device)
    if roomy:
        # Or the truth would take time that networks do not.
        truth = truth.with_table()
    held = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    networks = CostlyNetworks(truth, device, squeeze)
    networks.depth_encoder = choice.selection.chosen["mono_depth"].checkpoint.name.split("_")[-1]
    predicted = preset_fit.needs_of(settings, choice.selection, clip.plate)
    footage = clip.footage(settings, folder)
    meter, timed = StageMeter(), TimedProgress()
    tracked = []
    track_clip = megasam_engine.write_result

    def watched(path: Path, result) -> None:
        tracked.append(result)
        track_clip(path, result)

    megasam_engine.write_result = watched
    gc.collect()
    gc.freeze()  # as a worker does
    resident = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory(dir=folder) as work:
        job = SolveJob(Path("plate"), None, settings, Path(work), Path(work) / "results")
        try:
            shot = megasam_engine.solve_megasam(
                job, footage, choice, networks, StageCache(None), meter, timed
            )
        except MegasamError as error:
            return failure(error, started)
        finally:
            megasam_engine.write_result = track_clip
        status = shot.status
        errors = camera_errors(clip, shot)
    rows = [
        {
            "stage": stage,
            "seconds": round(seconds, 3),
            "loading_s": round(networks.loading.get(stage, 0.0), 3),
            "ms_a_frame": round(1000 * (seconds - networks.loading.get(stage, 0.0)) / len(clip), 2),
            "peak_mib": round(meter.peak_vram_mib.get(stage, 0.0) - held / 2**20),
            "predicted_mib": round(predicted[stage].wanted / 2**20) if stage in predicted else None,
            "host_mib": round(meter.peak_mib[stage] - resident / 2**20),
        }
        for stage, seconds in meter.seconds.items()
    ]
    return {
        "status": status,
        "fallen_to": settings.quality_preset,
        "keyframes": len(tracked[0].keyframes),
        **errors,
        "rows": rows,
        "steps_s": {k: round(v, 2) for k, v in timed.seconds.items() if k.startswith("tracking")},
        "ms_a_frame": round(sum(row["ms_a_frame"] for row in rows), 1),
    }


class TimedProgress(SilentProgress):
    """Seconds between what a solve says, by stage and words."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._step, self._since = "", time.perf_counter()

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        now = time.perf_counter()
        self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._since
        self._step, self._since = f"{stage}: {note}" if note else stage, now


def selected(settings: SolveSettings) -> Selection:
    """The checkpoints that a solve would take where all are there."""
    encoder = "vits" if settings.quality_preset == "fast" else "vitl"
    names = {
        "mono_depth": f"depth_anything_v2_{encoder}",
        "metric_depth": f"unidepth_v2_{encoder}",
        "tracking": "megasam",
        "flow": "raft_things",
    }
    if not settings.run_metric_depth:
        del names["metric_depth"]
    return Selection(
        {
            stage: CheckpointStatus(find_checkpoint(name), None, "fits")
            for stage, name in names.items()
        }
    )


def failure(error: MegasamError, started: float) -> dict:
    return {
        "failed": f"{error.code}: {error.message}",
        "after_s": round(time.perf_counter() - started, 1),
    }


def camera_errors(clip: Clip, shot) -> dict[str, float]:
    """Rotation, degrees RMS; path, per cent of its length; focal length, per cent."""
    true = clip.rendered.cameras.at_resolution(clip.width, clip.height)
    found = shot.cameras
    error = compare(dict(enumerate(found.world_from_cam)), true.world_from_cam)
    focal = 100 * abs(found.intrinsics.fx[0] / true.intrinsics.fx[0] - 1)
    return {
        "rotation_rms_deg": round(float(error.rotation_rms_deg), 4),
        "ate_percent": round(float(error.ate_percent), 3),
        "focal_percent": round(float(focal), 3),
    }


def show(title: str, figures: dict) -> None:
    print(f"\n### {title}\n", flush=True)
    if "failed" in figures:
        print(f"Failed after {figures['after_s']} s: {figures['failed']}", flush=True)
        return
    columns = list(figures["rows"][0])
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in figures["rows"]:
        print("| " + " | ".join("-" if v is None else str(v) for v in row.values()) + " |")
    told = {key: value for key, value in figures.items() if key != "rows"}
    print("\n" + ", ".join(f"{key} {value}" for key, value in told.items()), flush=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["fast", "balanced", "best"])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--memory", type=float, help="GiB")
    parser.add_argument("--squeeze", nargs="*", default=[], metavar="STAGE=GIB")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.memory:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.memory * GIB / total))
    squeeze = {
        stage: int(float(gib) * GIB) for stage, gib in (one.split("=") for one in options.squeeze)
    }
    overrides = {name: json.loads(value) for name, value in (s.split("=") for s in options.set)}
    width, height = map(int, options.size.split("x"))
    preset_fit.select_checkpoints = selected  # no files here
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{machine}, torch {torch.__version__}, {options.frames} frames of {options.size}")
    clip = Clip.of(width, height, options.frames)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets:
            settings = SolveSettings(quality_preset=preset, engine="megasam", **overrides)
            for turn in range(options.repeat):
                title = f"{preset}" + (f", {options.memory:g} GiB" if options.memory else "")
                title += "".join(f", {s} squeezed" for s in options.squeeze)
                title += f", solve {turn + 1} of the process" if options.repeat > 1 else ""
                figures = solve(
                    clip, settings, device, squeeze, Path(folder), roomy=options.memory is None
                )
                show(title, figures)
                found.append({"title": title, **figures})
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        name = "-".join(options.presets) + (f"-{options.memory:g}" if options.memory else "")
        name += "-".join(options.squeeze).replace("=", "_")
        (options.out / f"engine_{name}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
