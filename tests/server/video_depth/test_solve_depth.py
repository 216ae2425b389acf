"""Stage 5 as the pipeline calls it, on shots whose depth is known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from megasam_server.flow.stage import solve_flow
from megasam_server.pipeline.progress import SilentProgress
from megasam_server.video_depth.stage import solve_depth
from megasam_shared.settings import SolveSettings

from tests.server.plane_scene import make_shot, mask_store

SETTINGS = SolveSettings(quality_preset="balanced")


def run(shot, folder, masks=None, settings=SETTINGS, progress=None):
    progress = progress or SilentProgress()
    numbers = range(shot.frames.num_frames)
    flow = solve_flow(shot.frames, masks, shot.solution, settings, numbers, folder, progress)
    return solve_depth(shot.frames, masks, flow, shot.solution, settings, folder, progress)


def relative_error(result, shot):
    return np.abs(result.depth - shot.depth) / shot.depth


def check_sane(result, shot):
    assert result.depth.shape == shot.depth.shape
    assert np.isfinite(result.depth).all() and (result.depth > 0).all()
    assert np.isfinite(result.depth.astype(np.float16)).all()
    near, far = result.near_far
    assert 0 < near < far < np.inf


def test_depth_of_textured_planes(tmp_path):
    shot = make_shot(tmp_path)
    result = run(shot, tmp_path)
    check_sane(result, shot)
    error = relative_error(result, shot)
    assert np.median(error) < 0.03
    assert np.mean(error > 0.15) < 0.08
    assert result.notices == []


def test_neighbouring_frames_agree(tmp_path):
    shot = make_shot(tmp_path, noise=5.0)
    result = run(shot, tmp_path)
    wall = np.all(shot.depth > 6, axis=0)
    ratio = result.depth / shot.depth
    flicker = np.abs(np.diff(ratio, axis=0))[:, wall]
    assert np.median(flicker) < 0.01


def test_nearest_and_farthest_bracket_the_scene(tmp_path):
    shot = make_shot(tmp_path)
    near, far = run(shot, tmp_path).near_far
    assert 0.8 * shot.depth.min() < near < 1.1 * shot.depth.min()
    assert 0.9 * shot.depth.max() < far < 1.25 * shot.depth.max()


def test_moving_pixels_do_not_spoil_the_rest_and_are_not_called_measured(tmp_path):
    shot = make_shot(tmp_path, mover=True)
    result = run(shot, tmp_path)
    check_sane(result, shot)
    static = relative_error(result, shot)[~shot.moving]
    assert np.median(static) < 0.03
    assert np.median(result.confidence[shot.moving]) == 0
    assert np.median(result.confidence[~shot.moving]) > 127
    # The square slides over the wall: it is put at the wall's depth or nearer, not behind it.
    assert np.quantile(result.depth[shot.moving], 0.95) < 1.15 * shot.depth.max()


def test_left_out_pixels_are_filled_from_around(tmp_path):
    shot = make_shot(tmp_path)
    left_out = np.zeros_like(shot.moving)
    left_out[:, 30:60, 90:130] = True
    result = run(shot, tmp_path, mask_store(tmp_path, left_out))
    assert result.confidence[left_out].max() == 0
    assert np.median(relative_error(result, shot)[left_out]) < 0.05


def test_without_fusion_over_time(tmp_path):
    shot = make_shot(tmp_path)
    settings = SolveSettings(quality_preset="fast")
    assert not settings.run_cvd
    assert np.median(relative_error(run(shot, tmp_path, settings=settings), shot)) < 0.05


def test_tripod_shot_says_that_depth_is_unknown(tmp_path):
    shot = make_shot(tmp_path, model="tripod", count=4)
    result = run(shot, tmp_path)
    check_sane(result, shot)
    assert len(np.unique(result.depth)) == 1
    assert not result.confidence.any()
    assert [n.code for n in result.notices] == ["depth_unknown"]


@pytest.mark.parametrize(
    "count, width, height", [(2, 64, 48), (3, 160, 96), (5, 90, 161), (4, 131, 75), (3, 24, 14)]
)
def test_short_portrait_odd_and_tiny(tmp_path, count, width, height):
    shot = make_shot(tmp_path, count=count, width=width, height=height)
    check_sane(run(shot, tmp_path), shot)


def test_black_clip(tmp_path):
    shot = make_shot(tmp_path, count=4)
    shot.frames.path.write_bytes(bytes(4 * 160 * 96 * 3))
    result = run(shot, tmp_path)
    check_sane(result, shot)
    assert [n.code for n in result.notices] == ["depth_mostly_filled"]


def test_progress_ends_complete(tmp_path):
    calls = []

    class Watch(SilentProgress):
        def update(self, stage, done, total, note="") -> None:
            calls.append((stage, done, total))

    run(make_shot(tmp_path, count=4), tmp_path, progress=Watch())
    depth = [(done, total) for stage, done, total in calls if stage == "video_depth"]
    assert depth[-1][0] == depth[-1][1]
    assert depth == sorted(depth)


PEAK = """
import sys, tempfile
from pathlib import Path
import psutil, threading, time
from tests.server.plane_scene import make_shot
from tests.server.video_depth.test_solve_depth import run
with tempfile.TemporaryDirectory() as folder:
    shot = make_shot(Path(folder), count=12, width=192, height=112)
    count = int(sys.argv[1])
    import dataclasses, numpy as np
    from megasam_server.geometry.camera import CameraPath, Intrinsics
    data = shot.frames.path.read_bytes()
    size = len(data) // 12
    order = [abs((i % 22) - 11) for i in range(count)]
    with shot.frames.path.open("wb") as file:
        for i in order:
            file.write(data[i * size : (i + 1) * size])
    frames = dataclasses.replace(shot.frames, num_frames=count)
    cameras = shot.solution.cameras
    poses = cameras.world_from_cam[order]
    k = Intrinsics.centred(192, 112, np.full(count, cameras.intrinsics.fx[0]))
    seen = [np.flatnonzero(shot.solution.points.seen_frame == i) for i in order]
    points = dataclasses.replace(
        shot.solution.points,
        seen_point=np.concatenate(seen),
        seen_frame=np.repeat(np.arange(count), [len(s) for s in seen]),
        seen_xy=shot.solution.points.seen_xy[np.concatenate(seen)],
    )
    solution = dataclasses.replace(shot.solution, cameras=CameraPath(poses, k), points=points)
    shot = dataclasses.replace(shot, frames=frames, solution=solution)
    del data
    run(shot, Path(folder))
    print(psutil.Process().memory_info().rss // 1024 if sys.platform == "win32" else
          __import__("resource").getrusage(__import__("resource").RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip():
    def peak_kib(count: int) -> int:
        command = [sys.executable, "-c", PEAK, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return int(done.stdout)

    # One float32 map left behind per frame would be 10 MiB.
    assert peak_kib(160) - peak_kib(40) < 8 * 1024
