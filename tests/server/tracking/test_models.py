"""Structure from motion on tracks that are known exactly: no pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from megasam_server.geometry.trajectory import umeyama
from megasam_server.pipeline.progress import SilentProgress
from megasam_server.tracking.bundle import BundleOptions
from megasam_server.tracking.every_frame import pose_every_frame, weakly_seen
from megasam_server.tracking.perspective import START_FOCALS, reconstruct
from megasam_server.tracking.reconstruction import Reconstruction
from megasam_server.tracking.solve import _Steps, choose_model
from megasam_server.tracking.tracks import Tracks, join
from megasam_server.tracking.tripod import relative_rotation, turn
from scipy.spatial.transform import Rotation

from tests.server.tracking.synthetic import (
    HEIGHT,
    WIDTH,
    Shot,
    arc,
    block,
    centres,
    dolly,
    film,
    orbit,
    rotation_errors_deg,
    tripod,
)

SIZE = (WIDTH, HEIGHT)
STARTS = [ratio * WIDTH for ratio in START_FOCALS]
NOISE_PX = 0.1
NUM = 12


def silent(done: float, total: float) -> None: ...


def moving_camera(tracks: Tracks, num: int, focals: list[float] = STARTS, **options):
    return reconstruct(tracks, num, SIZE, focals, BundleOptions(**options), silent)


def choose(tracks: Tracks, num: int, focals: list[float] = STARTS, **options):
    steps = _Steps(SilentProgress())
    return choose_model(tracks, num, SIZE, focals, BundleOptions(**options), steps)


def position_error(solved: Reconstruction, shot: Shot) -> float:
    """RMS after the best similarity, as a share of the path's extent."""
    ours, true = centres(solved.scene), centres(shot.scene)
    rest = umeyama(ours, true).points(ours) - true
    return float(np.sqrt((rest**2).sum(axis=1).mean()) / np.linalg.norm(np.ptp(true, axis=0)))


def of_keyframes(tracks: Tracks, keyframes: list[int]) -> Tracks:
    kept = tracks.select(np.isin(tracks.frame, keyframes)).with_min_length(2)
    return replace(kept, frame=np.searchsorted(keyframes, kept.frame))


@pytest.fixture(scope="module")
def noisy_orbit() -> Shot:
    return orbit(NUM, points=160).with_noise(NOISE_PX)


@pytest.fixture(scope="module")
def solved_orbit(noisy_orbit) -> Reconstruction:
    return moving_camera(noisy_orbit.tracks(), NUM)


def test_a_moving_camera_of_unknown_focal_length_is_recovered(noisy_orbit, solved_orbit):
    assert solved_orbit.registered.all()
    np.testing.assert_allclose(solved_orbit.scene.focal, 600, rtol=5e-3)
    assert rotation_errors_deg(solved_orbit.scene, noisy_orbit.scene).max() < 0.02
    assert position_error(solved_orbit, noisy_orbit) < 2e-3
    assert np.sqrt((solved_orbit.residual_px() ** 2).mean()) < 1.6 * NOISE_PX
    assert solved_orbit.used.mean() > 0.98


@pytest.mark.parametrize("wrong", [0.75, 1.35])
def test_a_single_start_a_third_off_still_converges(noisy_orbit, wrong):
    model = moving_camera(noisy_orbit.tracks(), NUM, [600 * wrong])
    np.testing.assert_allclose(model.scene.focal, 600, rtol=5e-3)
    assert rotation_errors_deg(model.scene, noisy_orbit.scene).max() < 0.02


def test_a_given_focal_length_is_held(noisy_orbit):
    model = moving_camera(noisy_orbit.tracks(), NUM, [600.0], focal="fixed")
    np.testing.assert_array_equal(model.scene.focal, 600.0)
    assert rotation_errors_deg(model.scene, noisy_orbit.scene).max() < 0.02


def test_straight_ahead(tmp_path):
    shot = dolly(NUM, points=300).with_noise(NOISE_PX)
    model = moving_camera(shot.tracks(), NUM, [600.0], focal="fixed")
    assert model.registered.all()
    assert rotation_errors_deg(model.scene, shot.scene).max() < 0.03
    assert position_error(model, shot) < 5e-3


def with_mover(shot: Shot, share: float) -> tuple[Tracks, int]:
    """Tracks of the shot and of a rigid body of its own motion; number of static tracks.

    ``share`` of all tracks belong to the body.
    """
    num = shot.num_cameras
    static = shot.tracks()
    count = round(share / (1 - share) * static.num_tracks)
    body = block(8, count, (-1.0, -0.8, -0.6), (1.0, 0.8, 0.6))
    poses = np.tile(np.eye(4), (num, 1, 1))
    poses[:, :3, :3] = np.swapaxes(shot.scene.rotation, 1, 2)
    poses[:, :3, 3] = centres(shot.scene)
    # The body turns and drifts; from the body, the camera moves by the inverse of that.
    time = np.linspace(0, 1, num)
    body_pose = np.tile(np.eye(4), (num, 1, 1))
    body_pose[:, :3, :3] = Rotation.from_rotvec(
        np.radians(35) * time[:, None] * [0, 1, 0]
    ).as_matrix()
    body_pose[:, :3, 3] = np.stack([1.6 * time - 0.8, 0.2 * time, 4.5 - 0.6 * time], axis=1)
    seen_from_body = np.linalg.inv(body_pose) @ poses
    seen = film(seen_from_body, shot.scene.focal, body)
    return join(static, seen.with_noise(NOISE_PX, seed=5).tracks()), static.num_tracks


def test_a_rigid_mover_of_thirty_percent_is_left_out(noisy_orbit):
    tracks, num_static = with_mover(noisy_orbit, 0.3)
    assert 0.25 < 1 - num_static / tracks.num_tracks < 0.33
    model = moving_camera(tracks, NUM, STARTS[:1])
    assert model.registered.all()
    assert rotation_errors_deg(model.scene, noisy_orbit.scene).max() < 0.05
    np.testing.assert_allclose(model.scene.focal, 600, rtol=1e-2)
    used = model.used
    of_mover = tracks.track >= num_static
    assert used[~of_mover].mean() > 0.95
    assert used[of_mover].mean() < 0.1


def test_wild_tracks_are_left_out(noisy_orbit):
    tracks = noisy_orbit.tracks()
    rng = np.random.default_rng(0)
    wild = rng.random(tracks.num_tracks) < 0.25
    xy = tracks.xy.copy()
    rows = wild[tracks.track]
    xy[rows] += rng.normal(0, 30, (rows.sum(), 2))
    model = moving_camera(replace(tracks, xy=xy), NUM, [600.0])
    assert rotation_errors_deg(model.scene, noisy_orbit.scene).max() < 0.05
    assert model.used[~rows].mean() > 0.95
    assert model.used[rows].mean() < 0.02


def test_a_camera_that_stands_still_gives_no_pair_with_parallax_or_no_better_model():
    """Nothing but noise: whatever comes out must be finite."""
    shot = tripod(num=8, points=200, pan_deg=0.0).with_noise(NOISE_PX)
    model = moving_camera(shot.tracks(), 8, [600.0])
    if model is not None:
        known = model.registered
        assert np.isfinite(model.scene.rotation[known]).all()
        assert np.isfinite(model.scene.translation[known]).all()


def test_no_tracks_in_common_means_no_model():
    """Every track is seen by two neighbours only, and by too few."""
    track = np.repeat(np.arange(20), 2)
    frame = np.stack([np.arange(20) // 4, np.arange(20) // 4 + 1], axis=1).ravel()
    xy = np.random.default_rng(0).uniform(0, 300, (40, 2))
    tracks = Tracks.from_observations(track, frame, xy)
    assert moving_camera(tracks, 6) is None


def test_truncated_cost_charges_for_what_is_not_explained(solved_orbit):
    empty = Reconstruction.copy_of(solved_orbit)
    empty.registered[:] = False
    assert empty.truncated_cost() == pytest.approx(empty.outlier_px**2)
    half = Reconstruction.copy_of(solved_orbit)
    half.triangulated[::2] = False
    assert solved_orbit.truncated_cost() < half.truncated_cost() < empty.truncated_cost()


def test_a_copy_is_independent(solved_orbit):
    before = solved_orbit.scene.focal.copy(), solved_orbit.registered.copy()
    other = Reconstruction.copy_of(solved_orbit)
    other.scene.focal[:] *= 2
    other.scene.rotation[:] = 0
    other.registered[:] = False
    other.active[:] = False
    np.testing.assert_array_equal(solved_orbit.scene.focal, before[0])
    np.testing.assert_array_equal(solved_orbit.registered, before[1])
    assert solved_orbit.active.any() and solved_orbit.scene.rotation.any()


def test_a_turning_camera_of_unknown_focal_length_is_recovered():
    shot = tripod(NUM, points=200).with_noise(NOISE_PX)
    model = turn(shot.tracks(), NUM, SIZE, STARTS[:3], BundleOptions())
    assert model.registered.all()
    assert rotation_errors_deg(model.scene, shot.scene).max() < 0.02
    np.testing.assert_allclose(model.scene.focal, 600, rtol=5e-3)
    np.testing.assert_array_equal(model.scene.translation, 0)
    assert model.used.mean() > 0.97


def test_relative_rotation_survives_outliers_and_too_few_pairs():
    rng = np.random.default_rng(0)
    true = Rotation.from_rotvec([0.02, 0.1, -0.03]).as_matrix()
    first = rng.normal(0, 0.2, (200, 3)) + [0, 0, 1]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = first @ true.T
    second[:80] = second[rng.permutation(80)]
    found = relative_rotation(first, second, 0.005, rng)
    np.testing.assert_allclose(found, true, atol=1e-3)
    np.testing.assert_array_equal(relative_rotation(first[:2], second[:2], 0.005, rng), np.eye(3))


def test_choice_tripod_for_a_pan():
    shot = tripod(NUM, points=200).with_noise(NOISE_PX)
    chosen = choose(shot.tracks(), NUM, STARTS[:2])
    assert chosen.model.options.translate is False
    assert chosen.model.options.focal == "shared"
    np.testing.assert_allclose(chosen.model.scene.focal, 600, rtol=5e-3)
    assert [notice.code for notice in chosen.warnings] == ["tripod"]


def test_choice_tripod_for_a_pan_with_known_focal_length():
    shot = tripod(num=10, points=250).with_noise(NOISE_PX)
    chosen = choose(shot.tracks(), 10, [600.0], focal="fixed")
    assert chosen.model.options.translate is False
    np.testing.assert_array_equal(chosen.model.scene.focal, 600.0)


def test_choice_moving_for_an_orbit(noisy_orbit):
    chosen = choose(noisy_orbit.tracks(), NUM, STARTS[:1])
    assert chosen.model.options.translate is True
    assert chosen.model.options.focal == "shared"
    np.testing.assert_allclose(chosen.model.scene.focal, 600, rtol=5e-3)
    assert chosen.warnings == []


def test_choice_zoom_for_a_tripod_zoom():
    focal = np.geomspace(500, 800, NUM)
    shot = tripod(NUM, points=200, focal=focal, pan_deg=15).with_noise(NOISE_PX)
    chosen = choose(shot.tracks(), NUM, STARTS[:2])
    assert chosen.model.options.translate is False
    assert chosen.model.options.focal == "each"
    solved = chosen.model.scene.focal
    assert solved[-1] / solved[0] == pytest.approx(1.6, rel=0.01)
    assert {notice.code for notice in chosen.warnings} == {"tripod", "zoom"}


def test_choice_zoom_for_a_moving_zoom():
    focal = np.geomspace(500, 800, NUM)
    shot = film(arc(NUM), focal, block(1, 160, (-2, -1.2, -2), (2, 1.2, 2))).with_noise(NOISE_PX)
    chosen = choose(shot.tracks(), NUM, STARTS[:1])
    assert chosen.model.options.translate is True
    assert chosen.model.options.focal == "each"
    solved = chosen.model.scene.focal
    assert solved[-1] / solved[0] == pytest.approx(1.6, rel=0.02)
    assert rotation_errors_deg(chosen.model.scene, shot.scene).max() < 0.1
    assert [notice.code for notice in chosen.warnings] == ["zoom"]


def test_every_frame_gets_a_pose(noisy_orbit):
    """Solved on every second frame, then all."""
    tracks, keyframes = noisy_orbit.tracks(), [0, 2, 4, 6, 8, 11]
    model = moving_camera(of_keyframes(tracks, keyframes), 6)
    full = pose_every_frame(model, keyframes, tracks, NUM)
    assert full.registered.all() and len(full.scene.rotation) == NUM
    assert rotation_errors_deg(full.scene, noisy_orbit.scene).max() < 0.02
    assert position_error(full, noisy_orbit) < 2e-3
    assert not weakly_seen(full).any()


def test_keyframes_that_were_not_solved_are_placed_like_the_others(noisy_orbit):
    tracks, keyframes = noisy_orbit.tracks(), [0, 2, 4, 6, 8, 11]
    model = moving_camera(of_keyframes(tracks, keyframes), 6)
    model.registered[[2, 5]] = False
    model.scene.rotation[[2, 5]], model.scene.translation[[2, 5]] = np.eye(3), 0
    full = pose_every_frame(model, keyframes, tracks, NUM)
    assert rotation_errors_deg(full.scene, noisy_orbit.scene).max() < 0.05


def test_frames_without_tracks_follow_their_neighbours_and_are_weak(noisy_orbit):
    tracks, keyframes = noisy_orbit.tracks(), [0, 2, 4, 8, 9, 11]
    model = moving_camera(of_keyframes(tracks, keyframes), 6, [600.0])
    full = pose_every_frame(
        model, keyframes, tracks.select((tracks.frame < 5) | (tracks.frame > 7)), NUM
    )
    assert full.registered.all()
    np.testing.assert_array_equal(np.flatnonzero(weakly_seen(full)), [5, 6, 7])
    # On the way from 4 to 8, which is 18 degrees long.
    assert rotation_errors_deg(full.scene, noisy_orbit.scene)[5:8].max() < 2.0
    assert np.isfinite(full.scene.translation).all()
    assert position_error(full, noisy_orbit) < 0.02


def test_frames_beyond_the_last_solved_one_hold_the_last_pose(noisy_orbit):
    tracks, keyframes = noisy_orbit.tracks(), [0, 2, 4, 6, 8, 11]
    model = moving_camera(of_keyframes(tracks, keyframes), 6, [600.0])
    model.registered[4:] = False  # solved up to frame 6
    full = pose_every_frame(model, keyframes, tracks.select(tracks.frame <= 7), NUM)
    np.testing.assert_array_equal(np.flatnonzero(weakly_seen(full)), np.arange(8, NUM))
    assert np.ptp(full.scene.rotation[8:], axis=0).max() < 1e-6
    true = noisy_orbit.scene
    solved = (full.scene.rotation[:8], true.rotation[:8])
    first = [r @ r[0].T for r in solved]
    np.testing.assert_allclose(first[0], first[1], atol=2e-3)
