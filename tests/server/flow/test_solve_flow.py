"""Stage 4 as the pipeline calls it, on shots whose truth is known."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from megasam_server.flow.stage import solve_flow
from megasam_server.geometry.camera import CameraPath
from megasam_server.pipeline.progress import SilentProgress
from megasam_shared.errors import MegasamError
from megasam_shared.settings import SolveSettings

from tests.server.plane_scene import make_shot, mask_store

FIRST = 1001
SETTINGS = SolveSettings(quality_preset="balanced")


def run(shot, folder, masks=None, settings=SETTINGS, progress=None):
    numbers = range(FIRST, FIRST + shot.frames.num_frames)
    progress = progress or SilentProgress()
    return solve_flow(shot.frames, masks, shot.solution, settings, numbers, folder, progress)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))


class Recorder(SilentProgress):
    def __init__(self) -> None:
        self.calls, self.previews = [], []

    def update(self, stage, done, total, note="") -> None:
        self.calls.append((stage, done, total))

    def preview(self, stage, frame, jpeg) -> None:
        self.previews.append((stage, frame, cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)))


def test_static_shot_has_almost_nothing_moving(tmp_path):
    shot = make_shot(tmp_path, noise=5.0)
    assert run(shot, tmp_path).moving_share < 0.02


def test_static_shot_with_slightly_wrong_cameras(tmp_path):
    shot = make_shot(tmp_path)
    poses = shot.solution.cameras.world_from_cam.copy()
    rng = np.random.default_rng(0)
    for pose in poses[1:]:
        wx, wy, wz = np.radians(0.05) * rng.normal(size=3)
        pose[:3, :3] = pose[:3, :3] @ np.array([[1, -wz, wy], [wz, 1, -wx], [-wy, wx, 1]])
    cameras = CameraPath(poses, shot.solution.cameras.intrinsics)
    shot = dataclasses.replace(shot, solution=dataclasses.replace(shot.solution, cameras=cameras))
    assert run(shot, tmp_path).moving_share < 0.03


def test_mover_is_found_where_it_is(tmp_path):
    shot = make_shot(tmp_path, mover=True)
    watch = Recorder()
    result = run(shot, tmp_path, progress=watch)
    assert iou(result.motion_masks > 0, shot.moving) > 0.6
    assert result.moving_share == pytest.approx(result.motion_masks.mean())
    stage, number, shown = watch.previews[0]
    assert (stage, number) == ("flow", FIRST)
    redder = shown[..., 2].astype(float) - shot.frames.frame(0)[..., 0]
    mask = result.motion_masks[0] > 0
    assert redder[mask].mean() > 20 + abs(redder[~mask].mean())


def test_mover_before_a_turning_camera(tmp_path):
    shot = make_shot(tmp_path, mover=True, model="tripod")
    assert iou(run(shot, tmp_path).motion_masks > 0, shot.moving) > 0.6


def test_still_tripod_shot(tmp_path):
    shot = make_shot(tmp_path, model="tripod", noise=5.0)
    assert run(shot, tmp_path).moving_share < 0.02


def test_user_masks_stay_out_of_the_noise_estimate(tmp_path):
    shot = make_shot(tmp_path, mover=True)
    left_out = np.zeros_like(shot.moving)
    left_out[:, :, : shot.frames.width // 2] = True
    plain = run(shot, tmp_path / "plain")
    masked = run(shot, tmp_path / "masked", mask_store(tmp_path, left_out))
    # The static half was left out: it must not turn into moving pixels, nor hide the mover.
    assert masked.motion_masks[left_out].mean() < 0.03
    assert iou(masked.motion_masks > 0, shot.moving) > 0.6
    assert not np.array_equal(masked.rigid.sigma, plain.rigid.sigma)


def test_flow_follows_the_true_motion(tmp_path):
    shot = make_shot(tmp_path, noise=0.0)
    result = run(shot, tmp_path)
    cameras, store = shot.solution.cameras, result.flows
    errors = []
    for p, (i, j) in enumerate(store.pairs):
        y, x = np.mgrid[20:76:7, 20:140:7].reshape(2, -1)
        k = cameras.intrinsics
        z = shot.depth[i][y, x]
        in_cam = np.stack([(x - k.cx[i]) / k.fx[i] * z, (y - k.cy[i]) / k.fy[i] * z, z], axis=1)
        pose = cameras.world_from_cam[i]
        to, _ = cameras.project(in_cam @ pose[:3, :3].T + pose[:3, 3], np.full(len(x), j))
        flow, trust = store.flow(p)[:, y, x], store.trust(p)[y, x]
        good = trust > 0.9
        errors.append(np.hypot(*(flow.T - (to - np.stack([x, y], axis=1)))[good].T))
    assert np.median(np.concatenate(errors)) < 0.1


def test_every_frame_has_flow_to_its_neighbours_and_a_longer_step(tmp_path):
    shot = make_shot(tmp_path)
    pairs = run(shot, tmp_path).flows.pairs
    for frame in range(shot.frames.num_frames):
        steps = {int(j - i) for i, j in pairs if i == frame}
        wanted = {s for s in (-1, 1) if 0 <= frame + s < shot.frames.num_frames}
        assert wanted <= steps
        assert any(abs(s) > 1 for s in steps)


@pytest.mark.parametrize(
    "count, width, height",
    [(2, 64, 48), (3, 160, 96), (5, 90, 161), (4, 131, 75), (3, 24, 14)],
)
def test_short_portrait_odd_and_tiny(tmp_path, count, width, height):
    shot = make_shot(tmp_path, count=count, width=width, height=height)
    result = run(shot, tmp_path)
    assert result.motion_masks.shape == (count, height, width)
    assert set(np.unique(result.motion_masks)) <= {0, 1}


def test_large_frames_are_worked_on_at_640(tmp_path):
    shot = make_shot(tmp_path, count=3, width=1000, height=500)
    assert run(shot, tmp_path).motion_masks.shape == (3, 320, 640)


def test_black_clip_is_static(tmp_path):
    shot = make_shot(tmp_path, count=4)
    shot.frames.path.write_bytes(bytes(4 * 160 * 96 * 3))
    result = run(shot, tmp_path)
    assert result.moving_share == 0


@pytest.mark.parametrize("preset", ["fast", "best"])
def test_other_presets(tmp_path, preset):
    shot = make_shot(tmp_path, mover=True, count=8)
    result = run(shot, tmp_path, settings=SolveSettings(quality_preset=preset))
    assert iou(result.motion_masks > 0, shot.moving) > 0.5


def test_progress_never_goes_back_and_ends_complete(tmp_path):
    watch = Recorder()
    run(make_shot(tmp_path), tmp_path, progress=watch)
    stages, done, total = zip(*watch.calls, strict=True)
    assert set(stages) == {"flow"}
    assert list(done) == sorted(done)
    assert done[-1] == total[-1] and len(set(total)) == 1


def test_cameras_of_another_clip_are_refused(tmp_path):
    shot = make_shot(tmp_path)
    short = make_shot(tmp_path / "..", count=5).solution
    with pytest.raises(MegasamError) as error:
        run(dataclasses.replace(shot, solution=short), tmp_path)
    assert error.value.code == "frame_count_mismatch"
