"""A path that has drifted is put right by the tracks, and left alone where they cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from megasam_server.geometry.camera import CameraPath, Intrinsics
from megasam_server.geometry.trajectory import compare
from megasam_server.tracking import focal_profile, path_refinement
from megasam_server.tracking.path_refinement import RefinedPath, moving_sightings, refine_path
from megasam_server.tracking.tracks import Tracks, join
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


def true_path(shot: Shot) -> CameraPath:
    poses = np.tile(np.eye(4), (shot.num_cameras, 1, 1))
    poses[:, :3, :3] = np.swapaxes(shot.scene.rotation, 1, 2)
    poses[:, :3, 3] = centres(shot.scene)
    return CameraPath(poses, Intrinsics.centred(WIDTH, HEIGHT, shot.scene.focal))


def drifted(path: CameraPath, degrees: float, shift: float, focal: float = 1.0) -> CameraPath:
    """Errors that grow over the clip, as those of a tracker that goes from frame to frame."""
    time = np.linspace(0, 1, len(path))
    turn = np.radians(degrees) * np.stack([time, np.sin(3 * time), -time], axis=1)
    poses = path.world_from_cam.copy()
    poses[:, :3, :3] = Rotation.from_rotvec(turn).as_matrix() @ poses[:, :3, :3]
    poses[:, :3, 3] += shift * np.stack([np.sin(4 * time), time**2, time], axis=1)
    lens = path.intrinsics
    return CameraPath(poses, Intrinsics.centred(lens.width, lens.height, lens.fx * focal))


def refined(
    shot: Shot,
    path: CameraPath,
    lens: str = "shown",
    moving: np.ndarray | None = None,
    tripod: bool = False,
) -> RefinedPath | None:
    tracks = shot.tracks()
    moving = np.zeros(len(tracks.track), bool) if moving is None else moving
    return refine_path(path, tracks, moving, tripod, lens)


def errors(path: CameraPath, shot: Shot) -> tuple[float, float]:
    """Largest rotation error, degrees; ATE in per cent."""
    truth = true_path(shot).world_from_cam
    found = compare(dict(enumerate(path.world_from_cam)), truth)
    return found.rotation_max_deg, found.ate_percent


def path_of(refined: RefinedPath) -> CameraPath:
    return true_path(Shot(refined.model.scene, refined.model.seen))


def assert_within(found: RefinedPath, shot: Shot, degrees: float, percent: float) -> None:
    rotation_deg, ate_percent = errors(path_of(found), shot)
    assert rotation_deg < degrees
    assert ate_percent < percent


@pytest.mark.parametrize("shot", [orbit(), dolly(sway_deg=3.0)], ids=["orbit", "dolly"])
def test_drift_of_path_and_lens_is_taken_out(shot):
    shot = shot.with_noise(0.1)
    start = drifted(true_path(shot), 1.0, 0.05, focal=1.05)
    assert errors(start, shot)[0] > 0.4
    found = refined(shot, start)
    assert_within(found, shot, 0.1, 0.3)
    assert found.model.scene.focal[0] == pytest.approx(600, rel=0.01)
    assert not found.weak.any()
    assert found.explained_share > 0.95 and found.explained.min() > 0.9


def test_a_focal_length_that_is_held_stays():
    shot = orbit()
    found = refined(shot, drifted(true_path(shot), 0.5, 0.02), "known")
    assert (found.model.scene.focal == 600).all()
    assert_within(found, shot, 0.01, 0.01)


def test_a_tripod_stays_where_it_stands():
    shot = tripod().with_noise(0.1)
    found = refined(shot, drifted(true_path(shot), 0.5, 0.0), "known", tripod=True)
    assert (found.model.scene.translation == 0).all()
    assert rotation_errors_deg(found.model.scene, shot.scene).max() < 0.1


def test_what_moves_is_left_out_and_counts_as_not_explained():
    shot = orbit(num=16, points=150)
    # A crowd that outnumbers the room, all of it going the same way.
    crowd = film(arc(16), 600.0, block(5, 300, (-1.5, -1, -1.5), (1.5, 1, 1.5)))
    sweep = 4.0 * crowd.seen.camera[:, None] * np.array([1.0, 0.4])
    marching = replace(crowd, seen=replace(crowd.seen, xy=crowd.seen.xy + sweep))
    tracks = join(shot.tracks(), marching.tracks())
    moving = tracks.track >= shot.tracks().num_tracks
    start = drifted(true_path(shot), 1.0, 0.05)
    found = refine_path(start, tracks, moving, False, "shown")
    assert_within(found, shot, 0.02, 0.02)
    assert found.explained_share == pytest.approx(1 - moving.mean(), abs=0.02)


def test_a_frame_that_sees_nothing_follows_the_dense_path_between_its_neighbours():
    shot = orbit(num=16, points=200)
    blind = shot.seen.camera == 7
    blurred = replace(shot, seen=shot.seen.select(~blind))
    start = drifted(true_path(shot), 1.0, 0.05)
    found = refined(blurred, start)
    assert np.flatnonzero(found.weak).tolist() == [7]
    # The drift of the dense path changes little from frame to frame.
    assert_within(found, shot, 0.1, 0.2)
    assert found.explained[7] == 0


def test_more_frames_than_are_adjusted_at_once(monkeypatch):
    monkeypatch.setattr(path_refinement, "MOST_JOINT_FRAMES", 9)
    shot = orbit(num=26, points=200).with_noise(0.05)
    found = refined(shot, drifted(true_path(shot), 1.0, 0.05), "known")
    assert_within(found, shot, 0.1, 0.1)
    assert found.model.registered.all() and not found.weak.any()


def test_frames_that_are_not_adjusted_yet_have_no_say_in_the_focal_length(monkeypatch):
    monkeypatch.setattr(path_refinement, "MOST_JOINT_FRAMES", 9)
    asked: list[set[int]] = []

    def thinned(model, frames):
        asked.append(set(frames) - set(np.flatnonzero(model.registered)))
        return focal_profile.thinned(model, frames)

    monkeypatch.setattr(path_refinement, "thinned", thinned)
    shot = orbit(num=26, points=200).with_noise(0.05)
    found = refined(shot, drifted(true_path(shot), 1.0, 0.05, focal=1.25), "unknown")
    assert found.model.scene.focal[0] == pytest.approx(600, rel=0.06)
    assert asked and not any(asked)


def test_tracks_that_do_not_hold_the_path_leave_it_alone():
    shot = orbit()
    path = true_path(shot)
    everything = np.ones(len(shot.seen.camera), bool)
    assert refined(shot, path, moving=everything) is None
    assert refined(shot.with_noise(60.0), path) is None
    few = replace(shot, seen=shot.seen.select(shot.seen.point < 6))
    assert refined(few, path) is None


def test_distortion_is_found_only_where_it_may_be():
    shot = orbit(num=16, points=200)
    squared = (shot.seen.xy**2).sum(axis=1, keepdims=True) / 600.0**2
    bent = replace(shot, seen=replace(shot.seen, xy=shot.seen.xy * (1 - 0.1 * squared)))
    tracks = bent.tracks()
    none = np.zeros(len(tracks.track), bool)
    start = drifted(true_path(shot), 0.3, 0.02)

    def k1(lens: str) -> float:
        return refine_path(start, tracks, none, False, lens).model.scene.k1

    assert k1("shown") == pytest.approx(-0.1, abs=0.01)
    assert k1("guessed") == 0


def test_a_guessed_focal_length_stays_and_an_unknown_one_is_looked_for():
    shot = orbit().with_noise(0.1)
    start = drifted(true_path(shot), 0.3, 0.02, focal=1.5)
    guessed, unknown = (refined(shot, start, lens) for lens in ("guessed", "unknown"))
    assert (guessed.model.scene.focal == 900).all() and guessed.focal_profile is None
    assert unknown.model.scene.focal[0] == pytest.approx(600, rel=0.06)
    profile = unknown.focal_profile
    assert profile.interval_px[0] < 600 < profile.interval_px[1]
    assert profile.scaled(2.0).interval_px[0] == pytest.approx(2 * profile.interval_px[0])
    assert errors(path_of(unknown), shot)[0] < errors(path_of(guessed), shot)[0]


def test_observations_move_where_their_cell_does():
    static = np.ones((2, 3, 4))
    static[1, 2, 3] = 0.2
    xy = np.array([[639.4, 359.0], [470.0, 359.0], [639.4, 359.0], [639.4, 230.0]])
    tracks = Tracks(np.arange(4), np.array([0, 1, 1, 1]), xy, 4)
    moving = moving_sightings(tracks, static, WIDTH, HEIGHT)
    assert moving.tolist() == [False, False, True, False]
