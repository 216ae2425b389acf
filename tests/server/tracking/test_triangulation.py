"""Points from known cameras: near, far and at infinity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from megasam_server.tracking.bundle import Observations
from megasam_server.tracking.triangulation import (
    bearings,
    directions,
    pose_row,
    triangulate,
)

from tests.server.tracking.synthetic import arc, at_infinity, block, film, finite, orbit, tripod

NEAR = block(1, 100, (-2, -1.2, -2), (2, 1.2, 2))
FAR = block(2, 100, (-200, -100, 500), (200, 100, 1000))
SKY = at_infinity(np.random.default_rng(3).normal(0, 0.2, (100, 3)) + [0, 0, 1])


@pytest.mark.parametrize("points", [NEAR, FAR, SKY, np.concatenate([NEAR, FAR, SKY])])
def test_exact_sightings_give_exact_points(points):
    shot = film(arc(12), 600.0, points)
    ids = np.arange(len(shot.scene.points))
    assert len(ids) > 20
    found = triangulate(shot.scene, shot.seen, ids)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0)
    np.testing.assert_allclose(found, shot.scene.points, atol=1e-9)


def test_many_at_a_time_equal_one_at_a_time():
    shot = film(arc(12), 600.0, np.concatenate([NEAR, FAR, SKY])).with_noise(0.3)
    ids = np.random.default_rng(0).permutation(len(shot.scene.points))[:40]
    together = triangulate(shot.scene, shot.seen, ids)
    for row, one in zip(together, ids, strict=True):
        alone = triangulate(shot.scene, shot.seen, np.array([one]))[0]
        # At infinity the sign of w is noise, and so is nothing else.
        np.testing.assert_allclose(row, alone, atol=1e-9)


def test_the_order_of_sightings_does_not_matter():
    shot = film(arc(8), 600.0, NEAR).with_noise(0.3)
    ids = np.arange(len(shot.scene.points))
    mixed = shot.seen.select(np.random.default_rng(0).permutation(len(shot.seen.camera)))
    np.testing.assert_allclose(
        triangulate(shot.scene, mixed, ids), triangulate(shot.scene, shot.seen, ids), atol=1e-9
    )


def test_noise_of_a_third_of_a_pixel_moves_points_no_more_than_it_must():
    shot = film(arc(12), 600.0, NEAR).with_noise(0.33)
    ids = np.arange(len(shot.scene.points))
    found = replace(shot.scene, points=triangulate(shot.scene, shot.seen, ids))
    error = found.residuals(shot.seen)
    assert np.sqrt((error**2).mean()) < 0.36


def test_points_come_out_in_front_of_their_first_camera():
    shot = film(arc(12), 600.0, np.concatenate([NEAR, SKY])).with_noise(1.0)
    ids = np.arange(len(shot.scene.points))
    found = triangulate(shot.scene, shot.seen, ids)
    first = np.array([shot.seen.camera[shot.seen.point == i].min() for i in ids])
    assert (np.einsum("qj,qj->q", pose_row(shot.scene, first), found) > 0).all()


def test_a_point_whose_rays_meet_behind_the_cameras_is_not_accepted_as_a_near_one():
    """Rays that diverge, as those of wrong matches do, must not become a point near the cameras."""
    shot = film(arc(3, degrees=6), 600.0, finite(np.array([[0.0, 0.0, 0.0]])))
    spread = np.array([[60.0, 0], [0, 0], [-60.0, 0]]) * np.sign(shot.scene.translation[-1, 0])
    wrong = replace(shot.seen, xy=shot.seen.xy - 3 * spread[shot.seen.camera])
    other = replace(shot.seen, xy=shot.seen.xy + 3 * spread[shot.seen.camera])
    w = [triangulate(shot.scene, seen, np.array([0]))[0, 3] for seen in (wrong, other)]
    # One way the rays meet in front, the other way behind: there, w is at or beyond infinity.
    assert min(w) <= 0 < max(w)


def test_directions_are_the_points_of_a_turning_camera():
    shot = tripod(points=200, num=8)
    ids = np.arange(len(shot.scene.points))
    found = directions(shot.scene, shot.seen, ids)
    way = shot.scene.points[:, :3]
    np.testing.assert_array_equal(found[:, 3], 0)
    np.testing.assert_allclose(
        found[:, :3], way / np.linalg.norm(way, axis=1, keepdims=True), atol=1e-12
    )


def test_bearings_are_unit_and_point_where_the_pixel_is():
    shot = orbit(num=4, points=50)
    ray = bearings(shot.scene, shot.seen)
    np.testing.assert_allclose(np.linalg.norm(ray, axis=1), 1.0)
    np.testing.assert_allclose(600 * ray[:, :2] / ray[:, 2:], shot.seen.xy)


def test_only_the_asked_points_count():
    shot = film(arc(6), 600.0, NEAR)
    found = triangulate(shot.scene, shot.seen, np.array([7, 3]))
    np.testing.assert_allclose(found, shot.scene.points[[7, 3]], atol=1e-9)
    nothing = Observations(np.empty(0, int), np.empty(0, int), np.empty((0, 2)))
    assert triangulate(shot.scene, nothing, np.empty(0, int)).shape == (0, 4)
