"""The benchmarks' scores, on solutions whose errors are known."""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from megasam_server.raycast import sets
from megasam_server.raycast.camera_paths import handheld, look_at
from megasam_server.raycast.clip import Take, write_clip
from megasam_server.raycast.render import Camera, Film
from scipy.spatial.transform import Rotation

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FOCAL, FRAMES = 130.0, 8


@pytest.fixture(scope="module", autouse=True)
def benchmarks_on_path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def clip(tmp_path_factory, benchmarks_on_path):
    from truth import TrueClip

    def move(time):
        return look_at(np.array([-0.6 + 3 * time, -1.5, -2.5]), np.array([0.1, -1.1, 3.0]))

    scene = sets.furnished_room(4, furniture=2)
    camera = Camera(160, 90, handheld(move, 1, 0.01, 0.3), lambda time: FOCAL)
    folder = tmp_path_factory.mktemp("clips") / "small"
    write_clip(Take("small", scene, camera, Film(samples=1), FRAMES, 24.0, 0), folder, 2)
    return TrueClip(folder)


@pytest.fixture
def perfect(clip):
    """The truth in another world, half as large."""
    from solutions import Solution

    world = Rotation.from_rotvec([0.5, 0.7, -2.0]).as_matrix()
    poses = clip.cameras.world_from_cam.copy()
    poses[:, :3, :3] = world @ poses[:, :3, :3]
    poses[:, :3, 3] = 0.5 * poses[:, :3, 3] @ world.T + [5.0, 0.0, 1.0]
    lenses = {i: (FOCAL, FOCAL, 80.0, 45.0, 0.0) for i in range(FRAMES)}
    return Solution(dict(enumerate(poses)), lenses, "good", 1.0, [])


def test_a_perfect_solution(clip, perfect):
    from report import row_of
    from situations import passes

    row = row_of(clip, "megasam", perfect)
    assert row.posed == row.frames == FRAMES
    assert row.rotation_max_deg < 1e-4
    assert row.ate_percent < 1e-3
    assert row.focal_percent < 1e-9
    assert row.drift_px < 0.05  # exact but for depth stored as half floats
    assert passes(row) and not row.wrongly_good


@pytest.mark.parametrize("rotation_only", [False, True])
def test_drift_is_the_pixels_that_a_pinned_object_slides(clip, perfect, rotation_only):
    from report import row_of

    lenses = {i: (FOCAL, FOCAL, 83.0, 49.0, 0.0) for i in range(FRAMES)}
    row = row_of(clip, "x", replace(perfect, lenses=lenses), rotation_only)
    assert row.drift_px == pytest.approx(5.0, abs=0.05)
    lenses = {i: (FOCAL * 1.1, FOCAL * 1.1, 80.0, 45.0, 0.0) for i in range(FRAMES)}
    row = row_of(clip, "x", replace(perfect, lenses=lenses), rotation_only)
    assert row.focal_percent == pytest.approx(10.0)
    assert 2.5 < row.drift_px < 8.0  # a tenth of the distance from the centre


def test_a_tripod_is_not_judged_by_its_positions(clip, perfect):
    from report import row_of

    still = {i: pose.copy() for i, pose in perfect.poses.items()}
    for pose in still.values():
        pose[:3, 3] = 0.0
    row = row_of(clip, "x", replace(perfect, poses=still), rotation_only=True)
    assert row.drift_px < 0.05
    assert row.ate_percent is None
    assert row_of(clip, "x", replace(perfect, poses=still)).drift_px > 1.0


def test_rotation_errors_fail_and_good_is_flagged(clip, perfect):
    from report import row_of
    from situations import passes

    turn = Rotation.from_euler("y", 6.0, degrees=True).as_matrix()
    poses = {i: pose.copy() for i, pose in perfect.poses.items()}
    for i in range(FRAMES // 2):
        poses[i][:3, :3] = poses[i][:3, :3] @ turn
    row = row_of(clip, "megasam", replace(perfect, poses=poses))
    assert row.rotation_rms_deg == pytest.approx(3.0, abs=0.2)
    assert row.wrongly_good and not passes(row)
    assert not row_of(clip, "megasam", replace(perfect, poses=poses, verdict="check")).wrongly_good


def test_frames_without_a_pose_fail(clip, perfect):
    from report import print_table, row_of
    from situations import passes
    from solutions import Solution

    missing = {i: pose for i, pose in perfect.poses.items() if i != 3}
    row = row_of(clip, "megasam", replace(perfect, poses=missing))
    assert (row.posed, row.frames) == (FRAMES - 1, FRAMES)
    assert not passes(row) and row.wrongly_good
    nothing = row_of(clip, "pycolmap", Solution({}, {}, "-", 2.0, []))
    assert nothing.posed == 0 and nothing.drift_px is None and not passes(nothing)
    print_table([row, nothing], passes)


def test_solutions_survive_the_cache(clip, perfect, tmp_path):
    import json

    from solutions import Solution

    back = Solution.from_map(json.loads(json.dumps(perfect.to_map())))
    assert back.lenses == perfect.lenses
    np.testing.assert_array_equal(back.poses[3], perfect.poses[3])


def test_clips_are_found_and_absence_is_explained(clip, tmp_path):
    from truth import find_clips

    assert [c.name for c in find_clips([clip.folder.parent])] == ["small"]
    assert [c.name for c in find_clips([clip.folder])] == ["small"]
    with pytest.raises(SystemExit, match="No clip with ground truth"):
        find_clips([tmp_path])


@pytest.mark.slow
def test_pycolmap_baseline_runs_and_is_cached(clip, tmp_path):
    from colmap_baseline import baseline

    first = baseline(clip, tmp_path)
    again = baseline(clip, tmp_path)
    assert again.seconds == first.seconds
    assert first.verdict == "-"


def test_masks_are_scored_by_their_overlap_at_the_size_of_the_true_ones(tmp_path):
    from report import mask_overlap
    from truth import TrueClip

    found = np.zeros((2, 4, 8), np.uint8)
    found[:, :, 2:6] = 1
    assert mask_overlap(TrueClip(tmp_path), found) is None
    (tmp_path / "masks").mkdir()
    for frame, left in enumerate((4, 8)):  # of 16 x 8 pixels
        mask = np.zeros((8, 16), np.uint8)
        mask[:, left : left + 8] = 255
        cv2.imwrite(str(tmp_path / "masks" / f"{frame:06d}.png"), mask)
    # Frame 0 agrees in all 64 pixels, frame 1 in 32 of 96.
    assert mask_overlap(TrueClip(tmp_path), found) == pytest.approx((64 + 32) / (64 + 96))
