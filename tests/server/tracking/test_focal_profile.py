"""Whether the tracks determine the focal length."""

from __future__ import annotations

import numpy as np
import pytest
from megasam_server.raycast.camera_paths import aim
from megasam_server.tracking.bundle import BundleOptions
from megasam_server.tracking.focal_profile import profile_focal
from megasam_server.tracking.reconstruction import Reconstruction

from tests.server.tracking.synthetic import (
    HEIGHT,
    WIDTH,
    Shot,
    block,
    dolly,
    film,
    orbit,
    tripod,
)


def silent(done: float, total: float) -> None: ...


def solved(
    shot: Shot, ratio: float = 1.0, translate: bool = True, focal: str = "shared"
) -> Reconstruction:
    """The adjusted scene, started from the truth with the focal length times ``ratio``."""
    options = BundleOptions(focal=focal, translate=translate)
    model = Reconstruction(shot.tracks(), shot.num_cameras, 600, (WIDTH, HEIGHT), options)
    scene = model.scene
    scene.rotation[:] = shot.scene.rotation
    if translate:
        scene.translation[:], scene.points[:] = shot.scene.translation, shot.scene.points
    else:
        model.registered[:] = True
        model.extend_points()
    scene.focal[:] = shot.scene.focal * ratio
    model.registered[:] = model.triangulated[:] = True
    if ratio == 1.0:
        model.settle(rounds=1)
    return model


def test_an_orbit_shows_the_focal_length():
    model = solved(orbit(8, points=100).with_noise(0.2))
    profile, better = profile_focal(model, 2.0, silent)
    assert profile.observable
    assert better is None
    low, high = profile.interval_px
    assert low < 2 * 600 < high  # plate pixels
    assert high / low < 1.15
    best = profile.focal_px[int(np.argmin(profile.rms_px))]
    assert best == pytest.approx(1200, rel=0.01)
    assert profile.focal_px == sorted(profile.focal_px)
    assert len(profile.rms_px) == len(profile.focal_px) >= 9


def test_a_pan_shows_the_focal_length():
    model = solved(tripod(8, points=150).with_noise(0.2), translate=False)
    assert profile_focal(model, 1.0, silent)[0].observable


@pytest.mark.parametrize("sway", [0.0, 0.5])
def test_straight_ahead_does_not_show_it(sway):
    model = solved(dolly(8, points=160, sway_deg=sway).with_noise(0.2))
    profile, _ = profile_focal(model, 1.0, silent)
    assert not profile.observable
    low, high = profile.interval_px
    assert low <= 600 <= high


def test_a_wall_seen_from_a_sideways_rail_does_not_show_it():
    """A plane parallel to the picture and to the way: any focal length gives the same picture."""
    poses = np.stack([aim(np.array([x, 0.0, 0.0]), 0.0, 0.0) for x in np.linspace(0, 2, 8)])
    wall = block(4, 150, (-3, -2, 7.99), (5, 2, 8.01))
    profile, _ = profile_focal(solved(film(poses, 600.0, wall).with_noise(0.2)), 1.0, silent)
    assert not profile.observable


def test_the_model_is_left_alone():
    model = solved(orbit(8, points=100).with_noise(0.2))
    before = model.scene.focal.copy(), model.scene.points.copy(), model.active.copy()
    profile_focal(model, 1.0, silent)
    np.testing.assert_array_equal(model.scene.focal, before[0])
    np.testing.assert_array_equal(model.scene.points, before[1])
    np.testing.assert_array_equal(model.active, before[2])


def test_a_solve_that_stopped_beside_the_best_focal_length_is_told():
    """The adjustment is given a focal length a fifth too long; the profile finds the better one."""
    shot = orbit(8, points=100).with_noise(0.2)
    model = solved(shot, ratio=1.25)
    model.adjust(focal="fixed")
    profile, better = profile_focal(model, 1.0, silent)
    assert better is not None
    assert np.median(better.scene.focal) == pytest.approx(600, rel=0.02)
    best = profile.focal_px[int(np.argmin(profile.rms_px))]
    assert best == pytest.approx(600, rel=0.02)
    low, high = profile.interval_px
    assert low <= 600 <= high


def test_a_zoom_is_profiled_as_a_whole():
    focal = np.geomspace(500, 700, 8)
    shot = orbit(8, points=100, focal=focal).with_noise(0.2)
    model = solved(shot, focal="each")
    profile, _ = profile_focal(model, 1.0, silent)
    middle = float(np.median(model.scene.focal))
    assert profile.interval_px[0] < middle < profile.interval_px[1]


def test_progress_counts_to_its_total():
    calls = []
    model = solved(orbit(6, points=60).with_noise(0.2))
    profile, _ = profile_focal(model, 1.0, lambda *a: calls.append(a))
    assert calls[-1][0] == calls[-1][1] == len(profile.focal_px)
