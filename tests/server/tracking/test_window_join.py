"""The similarity between two windows of a clip, and what is said of how well they agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from megasam_server.geometry.trajectory import Similarity
from megasam_server.tracking.dense_slam.window_join import SharedFrames, join_windows
from scipy.spatial.transform import Rotation

FRAMES = 20
TURN = Rotation.from_rotvec([0.3, -0.9, 0.2]).as_matrix()
MOVE = Similarity(2.5, TURN, np.array([3.0, -1.0, 7.0]))


def shared(travel: float = 1.0, seed: int = 0) -> SharedFrames:
    """A camera that turns, and travels so much, before points at depths of 2 to 8."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, FRAMES)
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    turns = np.stack([0.1 * np.sin(4 * time), 0.6 * time, 0.02 * time], axis=1)
    poses[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    poses[:, :3, 3] = travel * np.stack([time, 0.1 * np.sin(5 * time), 0.4 * time**2], axis=1)
    disparity = 1 / rng.uniform(2, 8, (FRAMES, 6, 8))
    return SharedFrames(poses, disparity, np.ones_like(disparity))


def seen_from(frames: SharedFrames, world: Similarity) -> SharedFrames:
    """The same in a world of which ``world`` leads back."""
    back = Similarity(
        1 / world.scale,
        world.rotation.T,
        -world.rotation.T @ world.translation / world.scale,
    )
    return replace(
        frames,
        world_from_cam=back.poses(frames.world_from_cam),
        disparity=frames.disparity * world.scale,
    )


def turned(frames: SharedFrames, degrees: np.ndarray) -> SharedFrames:
    poses = frames.world_from_cam.copy()
    about = np.outer(np.radians(degrees), [0.0, 1.0, 0.0])
    poses[:, :3, :3] = poses[:, :3, :3] @ Rotation.from_rotvec(about).as_matrix()
    return replace(frames, world_from_cam=poses)


def shifted(frames: SharedFrames, shifts: np.ndarray) -> SharedFrames:
    poses = frames.world_from_cam.copy()
    poses[:, :3, 3] += shifts
    return replace(frames, world_from_cam=poses)


def assert_found(found: Similarity, tolerance: float) -> None:
    assert found.scale == pytest.approx(MOVE.scale, rel=tolerance)
    np.testing.assert_allclose(found.rotation, MOVE.rotation, atol=tolerance)
    np.testing.assert_allclose(found.translation, MOVE.translation, atol=10 * tolerance)


@pytest.mark.parametrize("travel", [1.0, 0.01])
def test_exact_windows_are_joined_exactly(travel):
    first = shared(travel)
    found, join = join_windows(first, seen_from(first, MOVE), (80, 99))
    assert_found(found, 1e-6)
    assert (join.first_frame, join.last_frame) == (80, 99)
    assert join.rotation_deg < 1e-6
    assert join.translation_percent < 1e-6
    assert join.scale_ratio == pytest.approx(1)
    assert join.inliers == 1


def test_a_camera_that_only_turns_takes_its_scale_from_the_depths():
    first = shared(travel=0.0)
    noise = 1e-4 * np.random.default_rng(1).normal(size=(FRAMES, 3))
    found, join = join_windows(shifted(first, noise), seen_from(first, MOVE), (0, 19))
    assert_found(found, 1e-3)
    assert join.scale_ratio is None
    assert join.inliers == 1


def test_depths_that_say_nothing_leave_the_scale_to_the_travel():
    first = shared()
    rng = np.random.default_rng(2)
    wild = first.disparity * np.exp(rng.normal(0, 1.0, (FRAMES, 1, 1)))
    found, _ = join_windows(replace(first, disparity=wild), seen_from(first, MOVE), (0, 19))
    assert_found(found, 1e-3)


def test_movers_do_not_count():
    first = shared()
    second = seen_from(first, MOVE)
    moving = np.arange(8) < 5
    second.disparity[:, :, moving] *= 3.0
    static = np.broadcast_to(~moving, first.disparity.shape).astype(float)
    found, _ = join_windows(first, replace(second, static=static), (0, 19))
    assert_found(found, 1e-6)


def test_frames_where_one_window_went_astray_do_not_count():
    first = shared()
    off = np.where(np.arange(FRAMES) < 6, np.linspace(6, 1, FRAMES), 0)
    second = shifted(turned(seen_from(first, MOVE), off), 0.1 * off[:, None] * [1, 0, 0])
    found, join = join_windows(first, second, (0, 19))
    assert_found(found, 1e-6)
    assert join.inliers == pytest.approx(14 / 20)
    # They are not hidden either.
    assert join.rotation_deg > 1
    assert join.translation_percent > 1


def test_a_path_that_bends_is_a_large_residual():
    first = shared()
    _, bent = join_windows(
        first, turned(seen_from(first, MOVE), np.linspace(0, 3, FRAMES)), (0, 19)
    )
    assert 0.5 < bent.rotation_deg < 2


def test_a_scale_that_the_depths_contradict_is_told():
    first = shared()
    second = seen_from(first, MOVE)
    _, join = join_windows(first, replace(second, disparity=1.2 * second.disparity), (0, 19))
    assert join.scale_ratio == pytest.approx(1 / 1.2, rel=1e-3)


def test_one_frame_is_enough_and_none_is_not():
    first = shared()
    second = seen_from(first, MOVE)

    def cut(frames: SharedFrames, end: int) -> SharedFrames:
        return SharedFrames(
            frames.world_from_cam[:end], frames.disparity[:end], frames.static[:end]
        )

    found, join = join_windows(cut(first, 1), cut(second, 1), (7, 7))
    assert_found(found, 1e-6)
    assert join.scale_ratio is None
    with pytest.raises(ValueError, match="no frame"):
        join_windows(cut(first, 0), cut(second, 0), (7, 6))
