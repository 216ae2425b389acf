"""The solution in plate pixels."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_server.media.frame_store import FrameStore, write_frame_store
from megasam_server.media.plate import PlateInfo
from megasam_server.tracking.bundle import BundleOptions
from megasam_server.tracking.reconstruction import Reconstruction
from megasam_server.tracking.solution import TrackingSolution
from megasam_server.tracking.to_plate import to_plate
from megasam_shared.quality import FocalProfile, Notice

from tests.server.tracking.synthetic import HEIGHT, WIDTH, Shot, orbit, tripod

NUM = 8


def plate_of(width: int, height: int) -> PlateInfo:
    numbers = list(range(1001, 1001 + NUM))
    times = [i / 24 for i in range(NUM)]
    return PlateInfo("shot", "sequence", width, height, 24.0, numbers, times, ["f"] * NUM, [])


@pytest.fixture
def frames(tmp_path) -> FrameStore:
    """Left half red, right half blue; a green frame 0."""
    store = FrameStore(tmp_path / "frames.rgb", NUM, WIDTH, HEIGHT, 3)
    picture = np.zeros((NUM, HEIGHT, WIDTH, 3), np.uint8)
    picture[:, :, : WIDTH // 2, 0] = 200
    picture[:, :, WIDTH // 2 :, 2] = 200
    write_frame_store(store, picture)
    return store


def solved(shot: Shot, translate: bool = True) -> Reconstruction:
    """The truth as a solved model, in another unit and seen from other axes."""
    options = BundleOptions(translate=translate)
    model = Reconstruction(shot.tracks(), shot.num_cameras, 600, (WIDTH, HEIGHT), options)
    if translate:
        model.scene.rotation[:] = shot.scene.rotation
        model.scene.translation[:] = 7.0 * shot.scene.translation
        points = shot.scene.points * [7, 7, 7, 1]
        model.scene.points[:] = points / np.linalg.norm(points, axis=1, keepdims=True)
        model.triangulated[:] = True
    else:
        model.scene.rotation[:] = shot.scene.rotation
    model.registered[:] = True
    if not translate:
        model.extend_points()
    turn = shot.scene.rotation[3]  # the world is not the first camera
    model.scene.rotation[:] = model.scene.rotation @ turn.T
    model.scene.points[:, :3] = model.scene.points[:, :3] @ turn.T
    return model


def finish(model, frames, plate=None, weak=None, **changes) -> TrackingSolution:
    plate = plate or plate_of(2 * WIDTH, 2 * HEIGHT)
    weak = np.zeros(NUM, bool) if weak is None else weak
    given = {"focal_given": False, "profile": None, "warnings": []} | changes
    return to_plate(
        model, frames, plate, given["focal_given"], given["profile"], weak, given["warnings"]
    )


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5])
def test_points_project_onto_what_was_seen_in_plate_pixels(frames, scale):
    shot = orbit(NUM, points=150)
    plate = plate_of(round(scale * WIDTH), round(scale * HEIGHT))
    solution = finish(solved(shot), frames, plate)
    cloud = solution.points
    pixels, depth = solution.cameras.project(cloud.xyz[cloud.seen_point], cloud.seen_frame)
    np.testing.assert_allclose(pixels, cloud.seen_xy, atol=1e-6)
    assert (depth > 0).all()
    # The corner of the picture stays the corner: (-0.5, -0.5) and (width - 0.5, height - 0.5).
    order = np.lexsort((shot.seen.point, shot.seen.camera))
    seen = (shot.tracks().xy + 0.5) * scale - 0.5
    assert len(seen) == len(cloud.seen_xy) == len(order)
    np.testing.assert_allclose(np.sort(cloud.seen_xy, axis=0), np.sort(seen, axis=0), atol=1e-9)
    intrinsics = solution.cameras.intrinsics
    assert (intrinsics.width, intrinsics.height) == (plate.width, plate.height)
    np.testing.assert_allclose(intrinsics.fx, 600 * scale)
    np.testing.assert_allclose(intrinsics.cx, (plate.width - 1) / 2)
    np.testing.assert_allclose(intrinsics.cy, (plate.height - 1) / 2)


def test_the_world_is_the_first_camera_and_the_median_point_is_ten_away(frames):
    solution = finish(solved(orbit(NUM, points=150)), frames)
    poses, cloud = solution.cameras.world_from_cam, solution.points
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(poses[:, 3], np.tile([0, 0, 0, 1], (NUM, 1)))
    _, depth = solution.cameras.project(cloud.xyz[cloud.seen_point], cloud.seen_frame)
    assert np.median(depth) == pytest.approx(10.0)


def test_errors_are_in_plate_pixels(frames):
    model = solved(orbit(NUM, points=150).with_noise(0.3))
    solution = finish(model, frames)
    expected = 2 * np.sqrt((model.residual_px() ** 2).mean())
    assert solution.rms_px == pytest.approx(expected)
    assert solution.rms_px == pytest.approx(2 * 0.3 * np.sqrt(2), rel=0.1)
    count = solution.per_frame_tracks
    total = np.sqrt((solution.per_frame_rms_px**2 * count).sum() / count.sum())
    assert total == pytest.approx(solution.rms_px)
    cloud = solution.points
    pixels, _ = solution.cameras.project(cloud.xyz[cloud.seen_point], cloud.seen_frame)
    squared = ((pixels - cloud.seen_xy) ** 2).sum(axis=1)
    mean = np.bincount(cloud.seen_point, squared) / np.bincount(cloud.seen_point)
    np.testing.assert_allclose(cloud.error_px, np.sqrt(mean), rtol=1e-6)


def test_points_at_infinity_are_not_in_the_cloud_but_count_as_tracks(frames):
    model = solved(orbit(NUM, points=150))
    before = finish(model, frames)
    model.scene.points[:30, 3] = 0
    model.outlier_px = 1e9
    after = finish(model, frames)
    assert len(before.points.xyz) - len(after.points.xyz) == 30
    np.testing.assert_array_equal(before.per_frame_tracks, after.per_frame_tracks)
    assert np.isfinite(after.points.xyz).all()


def test_a_tripod_shot_has_turns_and_no_points(frames):
    shot = tripod(NUM, points=200)
    solution = finish(solved(shot, translate=False), frames)
    assert solution.model == "tripod"
    np.testing.assert_allclose(solution.cameras.world_from_cam[:, :3, 3], 0, atol=1e-12)
    true = np.swapaxes(shot.scene.rotation, 1, 2)
    np.testing.assert_allclose(
        solution.cameras.world_from_cam[:, :3, :3], true[0].T @ true, atol=1e-12
    )
    assert solution.points.xyz.shape == (0, 3) and solution.points.rgb.dtype == np.uint8
    assert solution.rms_px < 1e-6
    assert solution.coverage > 0.3


@pytest.mark.filterwarnings("error")
def test_a_frame_that_sees_nothing_has_nan_and_the_others_have_not(frames):
    model = solved(orbit(NUM, points=150).with_noise(0.2))
    model.active[model.seen.camera == 5] = False
    weak = np.arange(NUM) == 5
    solution = finish(model, frames, weak=weak)
    np.testing.assert_array_equal(np.isnan(solution.per_frame_rms_px), weak)
    assert solution.per_frame_tracks[5] == 0
    np.testing.assert_array_equal(solution.interpolated, weak)


def test_shares_tell_what_is_explained(frames):
    model = solved(orbit(NUM, points=150))
    assert finish(model, frames).explained_share == 1.0
    model.active[::4] = False
    assert finish(model, frames).explained_share == pytest.approx(0.75, abs=0.01)


def test_coverage_counts_cells(frames):
    """The right half of the picture is left without tracks."""
    model = solved(orbit(NUM, points=400))
    whole = finish(model, frames).coverage
    model.active[model.seen.xy[:, 0] > 0] = False
    half = finish(model, frames).coverage
    assert 0.2 < whole <= 1
    assert half <= 0.5
    assert half == pytest.approx(whole / 2, rel=0.25)


def test_colours_are_those_of_the_picture(frames):
    shot = orbit(NUM, points=150)
    cloud = finish(solved(shot), frames).points
    rows = np.flatnonzero(np.r_[True, np.diff(cloud.seen_point) > 0])
    first_x = cloud.seen_xy[rows, 0]
    side = np.abs(first_x - WIDTH) > 4
    red = cloud.rgb[cloud.seen_point[rows]][:, 0] == 200
    np.testing.assert_array_equal(red[side], (first_x < WIDTH)[side])


def test_the_rest_is_passed_through(frames):
    profile = FocalProfile([1.0], [2.0], (0.5, 1.5), True)
    notice = Notice("zoom", "text")
    solution = finish(
        solved(orbit(NUM, points=60)), frames, focal_given=True, profile=profile, warnings=[notice]
    )
    assert solution.focal_given and solution.focal_profile is profile
    assert solution.warnings == [notice]
    assert solution.model == "perspective"
    assert solution.median_track_length == NUM


@pytest.mark.filterwarnings("error")
def test_a_model_that_explains_nothing_is_handed_on_without_a_number(frames):
    """Nothing fits: no points, no error to speak of, and no exception."""
    model = solved(orbit(NUM, points=60))
    model.active[:] = False
    solution = finish(model, frames)
    assert np.isnan(solution.rms_px)
    assert solution.explained_share == 0 and solution.coverage == 0
    assert np.isfinite(solution.cameras.world_from_cam).all()


@pytest.mark.filterwarnings("error")
def test_only_points_at_infinity(frames):
    model = solved(orbit(NUM, points=60))
    model.scene.points[:, 3] = 0
    solution = finish(model, frames)
    assert np.isfinite(solution.cameras.world_from_cam).all()
