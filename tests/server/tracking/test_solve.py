"""Stage 3 as the pipeline calls it."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_server.geometry.trajectory import compare
from megasam_server.media.frame_store import FrameStore, write_frame_store
from megasam_server.media.plate import PlateInfo
from megasam_server.pipeline.progress import SilentProgress
from megasam_server.raycast import sets
from megasam_server.raycast.camera_paths import handheld, look_at
from megasam_server.raycast.clip import Take
from megasam_server.raycast.render import Camera, Film
from megasam_server.tracking.solve import solve_cameras
from megasam_shared.errors import MegasamError
from megasam_shared.settings import SolveSettings

NUM, WIDTH, HEIGHT, FOCAL = 20, 320, 180, 290.0


def store(folder, frames: np.ndarray) -> FrameStore:
    made = FrameStore(folder / "frames.rgb", len(frames), *frames.shape[2:0:-1], 3)
    write_frame_store(made, frames)
    return made


def plate_of(num: int, width: int, height: int) -> PlateInfo:
    numbers, times = list(range(1, num + 1)), [i / 24 for i in range(num)]
    return PlateInfo("shot", "movie", width, height, 24.0, numbers, times, ["shot.mov"], [])


class Recorder(SilentProgress):
    def __init__(self) -> None:
        self.shares: list[float] = []
        self.shown: list[tuple[str, int]] = []

    def update(self, stage, done, total, note=""):
        assert stage == "tracking"
        self.shares.append(done / total)

    def preview(self, stage, frame, jpeg):
        self.shown.append((stage, frame))


@pytest.fixture(scope="module")
def take() -> Take:
    def path(time: float) -> np.ndarray:
        eye = np.array([-0.9 + 2.2 * time, -1.5, -2.6 + 0.3 * time])
        return look_at(eye, np.array([0.1, -1.1, 1.5]))

    room = sets.furnished_room(5, width=6.0, depth=6.5, furniture=6)
    camera = Camera(WIDTH, HEIGHT, handheld(path, 3, 0.004, 0.2), lambda time: FOCAL)
    return Take("room", room, camera, Film(noise=1.5, samples=2), NUM, 24.0, seed=1)


@pytest.fixture(scope="module")
def solved(take, tmp_path_factory):
    """Solved at 320x180 as the plate of 640x360, focal length unknown; with its progress."""
    frames = store(tmp_path_factory.mktemp("solve"), np.stack([f.rgb for f in take.frames()]))
    progress = Recorder()
    plate = plate_of(NUM, 2 * WIDTH, 2 * HEIGHT)
    return solve_cameras(frames, None, plate, SolveSettings(), progress), progress


def test_a_filmed_clip_is_solved(solved, take):
    solution, _ = solved
    error = compare(dict(enumerate(solution.cameras.world_from_cam)), take.cameras().world_from_cam)
    assert solution.model == "perspective"
    assert error.rotation_deg.max() < 0.3
    assert error.ate_percent < 2.0
    np.testing.assert_allclose(solution.cameras.intrinsics.fx, 2 * FOCAL, rtol=0.03)
    assert solution.rms_px < 1.0
    assert not solution.interpolated.any()


def test_its_points_are_where_the_cameras_see_them(solved):
    solution, _ = solved
    cloud = solution.points
    assert len(cloud.xyz) > 100
    pixels, depth = solution.cameras.project(cloud.xyz[cloud.seen_point], cloud.seen_frame)
    error = np.linalg.norm(pixels - cloud.seen_xy, axis=1)
    assert (depth > 0).mean() > 0.999
    assert np.sqrt((error**2).mean()) == pytest.approx(solution.rms_px, rel=0.05)
    assert (cloud.seen_xy < [2 * WIDTH, 2 * HEIGHT]).all()


def test_its_focal_length_is_tested_and_its_progress_goes_up_to_the_end(solved):
    solution, progress = solved
    assert not solution.focal_given
    low, high = solution.focal_profile.interval_px
    assert 0.97 * low < 2 * FOCAL < 1.03 * high
    assert progress.shares == sorted(progress.shares)
    assert progress.shares[-1] == pytest.approx(1.0)
    assert progress.shown[0] == ("tracking", 1)


@pytest.mark.parametrize("value", [0, 128])
def test_a_flat_clip_is_refused(value, tmp_path):
    frames = store(tmp_path, np.full((6, 120, 160, 3), value, np.uint8))
    with pytest.raises(MegasamError) as raised:
        solve_cameras(frames, None, plate_of(6, 160, 120), SolveSettings(), SilentProgress())
    assert raised.value.code == "too_little_texture"
    assert raised.value.hint


def test_a_clip_of_one_frame_is_refused_in_words(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (1, 120, 160, 3)).astype(np.uint8)
    frames = store(tmp_path, picture)
    with pytest.raises(MegasamError):
        solve_cameras(frames, None, plate_of(1, 160, 120), SolveSettings(), SilentProgress())
