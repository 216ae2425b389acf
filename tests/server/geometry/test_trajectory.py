"""Alignment and error metrics, against closed forms and against evo."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megasam_server.geometry.trajectory import (
    align_orientations,
    compare,
    mean_rotation,
    read_tum,
    rotation_angles_deg,
    umeyama,
)
from scipy.spatial.transform import Rotation

SEEDS = st.integers(0, 2**32 - 1)


def random_path(seed: int, frames: int = 30) -> np.ndarray:
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(
        np.cumsum(rng.normal(0, 0.05, (frames, 3)), 0)
    ).as_matrix()
    poses[:, :3, 3] = np.cumsum(rng.normal(0, 0.1, (frames, 3)), axis=0)
    return poses


def as_frames(poses: np.ndarray) -> dict[int, np.ndarray]:
    return dict(enumerate(poses))


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0.01, 100.0))
def test_umeyama_undoes_any_similarity(seed, scale):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (12, 3))
    rotation = Rotation.random(random_state=seed % 2**31).as_matrix()
    moved = scale * points @ rotation.T + rng.normal(0, 10, 3)
    found = umeyama(points, moved)
    assert found.scale == pytest.approx(scale, rel=1e-6)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-7)
    np.testing.assert_allclose(found.points(points), moved, atol=1e-6 * scale)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_umeyama_never_mirrors(seed):
    points = np.random.default_rng(seed).normal(0, 1, (10, 3))
    found = umeyama(points, points * [1, 1, -1])
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)
    assert found.scale >= 0


def test_umeyama_of_points_that_coincide_keeps_the_scale_at_one():
    target = np.random.default_rng(0).normal(0, 0.003, (20, 3))
    found = umeyama(np.zeros((20, 3)), target)
    assert found.scale == 1.0
    np.testing.assert_allclose(found.points(np.zeros((1, 3)))[0], target.mean(axis=0))


def test_umeyama_is_least_squares():
    rng = np.random.default_rng(4)
    source, target = rng.normal(0, 1, (25, 3)), rng.normal(0, 1, (25, 3))
    best = umeyama(source, target)
    residual = ((best.points(source) - target) ** 2).sum()
    for _ in range(200):
        nudge = Rotation.from_rotvec(rng.normal(0, 0.02, 3)).as_matrix()
        other = type(best)(
            best.scale * (1 + rng.normal(0, 0.02)),
            nudge @ best.rotation,
            best.translation + rng.normal(0, 0.02, 3),
        )
        assert ((other.points(source) - target) ** 2).sum() >= residual


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.05, 20.0))
def test_error_is_zero_in_any_other_world(seed, scale):
    true = random_path(seed)
    world = Rotation.random(random_state=seed % 2**31).as_matrix()
    solved = true.copy()
    solved[:, :3, :3] = world @ true[:, :3, :3]
    solved[:, :3, 3] = scale * true[:, :3, 3] @ world.T + [3.0, -2.0, 1.0]
    error = compare(as_frames(solved), true)
    assert error.rotation_max_deg < 1e-5
    assert error.ate < 1e-9 * max(1.0, 1 / scale) + 1e-9
    np.testing.assert_allclose(error.alignment.poses(solved), true, atol=1e-6)


def test_rotation_error_of_a_tripod_does_not_come_from_its_positions():
    true = random_path(1)
    true[:, :3, 3] = 0.0
    solved = true.copy()
    solved[:, :3, 3] = np.random.default_rng(2).normal(0, 1e-3, (30, 3))
    error = compare(as_frames(solved), true)
    assert error.rotation_max_deg < 1e-5
    assert np.isnan(error.ate_percent)


def test_rotation_error_of_a_straight_line_knows_the_roll():
    true = np.tile(np.eye(4), (20, 1, 1))
    true[:, 2, 3] = np.arange(20)
    solved = true.copy()
    solved[10:, :3, :3] = Rotation.from_euler("z", 4.0, degrees=True).as_matrix()
    error = compare(as_frames(solved), true)
    np.testing.assert_allclose(error.rotation_deg, 2.0, atol=1e-6)
    assert error.ate < 1e-9


def test_mean_rotation_is_the_middle():
    turns = Rotation.from_euler("x", [[-3.0], [0.0], [3.0]], degrees=True).as_matrix()
    np.testing.assert_allclose(mean_rotation(turns), np.eye(3), atol=1e-12)


def test_frames_without_a_pose_count_for_the_path_only():
    true = random_path(5)
    error = compare({i: true[i] for i in range(0, 30, 3)}, true)
    assert len(error.rotation_deg) == 10
    steps = np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1)
    assert error.path_length == pytest.approx(steps.sum())


@pytest.mark.parametrize("frames", [{}, {30: np.eye(4)}, {-1: np.eye(4)}])
def test_compare_refuses_frames_outside_the_clip(frames):
    with pytest.raises(ValueError, match=r"0\.\.29"):
        compare(frames, random_path(0))


def test_same_figures_as_evo():
    evo_metrics = pytest.importorskip("evo.core.metrics")
    from evo.core.trajectory import PoseTrajectory3D

    true = random_path(7, 60)
    rng = np.random.default_rng(8)
    solved = random_path(7, 60)
    solved[:, :3, 3] = 0.2 * solved[:, :3, 3] + rng.normal(0, 0.01, (60, 3))
    noise = Rotation.from_rotvec(rng.normal(0, 0.01, (60, 3))).as_matrix()
    solved[:, :3, :3] = solved[:, :3, :3] @ noise
    times = np.arange(60.0)
    theirs = PoseTrajectory3D(poses_se3=list(solved), timestamps=times)
    reference = PoseTrajectory3D(poses_se3=list(true), timestamps=times)
    rotation, translation, scale = theirs.align(reference, correct_scale=True)

    ours = compare(as_frames(solved), true)
    assert ours.alignment.scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(ours.alignment.rotation, rotation, atol=1e-9)
    np.testing.assert_allclose(ours.alignment.translation, translation, atol=1e-9)
    ate = evo_metrics.APE(evo_metrics.PoseRelation.translation_part)
    ate.process_data((reference, theirs))
    assert ours.ate == pytest.approx(ate.get_statistic(evo_metrics.StatisticsType.rmse), rel=1e-9)

    # evo measures angles without an alignment of its own: give it ours.
    aligned = solved.copy()
    aligned[:, :3, :3] = align_orientations(solved[:, :3, :3], true[:, :3, :3]) @ aligned[:, :3, :3]
    turned = PoseTrajectory3D(poses_se3=list(aligned), timestamps=times)
    angle = evo_metrics.APE(evo_metrics.PoseRelation.rotation_angle_deg)
    angle.process_data((reference, turned))
    assert ours.rotation_rms_deg == pytest.approx(
        angle.get_statistic(evo_metrics.StatisticsType.rmse), rel=1e-6
    )
    assert ours.path_length == pytest.approx(reference.path_length)


def test_rotation_angles():
    turns = Rotation.from_euler("y", [[0.0], [0.1], [90.0], [179.0]], degrees=True).as_matrix()
    still = np.tile(np.eye(3), (4, 1, 1))
    np.testing.assert_allclose(rotation_angles_deg(turns, still), [0.0, 0.1, 90.0, 179.0])


def test_read_tum(tmp_path):
    file = tmp_path / "poses.txt"
    file.write_text("# a comment\n0 1 2 3 0 0 0 1\n4 0 0 0 0 1 0 1\n")
    poses = read_tum(file)
    assert list(poses) == [0, 4]
    np.testing.assert_allclose(poses[0][:3, 3], [1, 2, 3])
    np.testing.assert_allclose(poses[4][:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-12)


def test_read_tum_says_what_is_wrong(tmp_path):
    file = tmp_path / "poses.txt"
    file.write_text("0 1 2 3\n")
    with pytest.raises(ValueError, match="8 numbers"):
        read_tum(file)
