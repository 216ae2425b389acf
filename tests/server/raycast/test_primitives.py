"""Rays against shapes, checked with the shapes' own equations."""

import numpy as np
import pytest
from megasam_server.raycast.primitives import Box, Cylinder, Ellipsoid, Ground, at, rigid_inverse


def rays_from(origin, count=4000, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.uniform(-1.6, 1.6, (3, count))
    return (targets - np.asarray(origin)[:, None]).astype(np.float32)


SHAPES = {
    "box": (Box((1.0, 0.6, 0.8)), lambda p: np.max(np.abs(p) / [[1.0], [0.6], [0.8]], axis=0) - 1),
    "ellipsoid": (
        Ellipsoid((1.0, 0.6, 0.8)),
        lambda p: np.linalg.norm(p / np.array([[1.0], [0.6], [0.8]]), axis=0) - 1,
    ),
    "cylinder": (
        Cylinder(0.7, 0.9),
        lambda p: np.maximum(np.hypot(p[0], p[2]) / 0.7, np.abs(p[1]) / 0.9) - 1,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_first_hit_lies_on_the_surface_and_nothing_before_it(name):
    shape, outside = SHAPES[name]
    origin = np.array([2.0, -1.5, -3.0], np.float32)
    directions = rays_from(origin)
    distance = shape.intersect(origin, directions)
    hit = np.isfinite(distance)
    assert 0.2 < hit.mean() < 0.9
    points = origin[:, None] + directions[:, hit] * distance[hit]
    assert np.abs(outside(points)).max() < 2e-5
    for part in np.linspace(0, 0.999, 30):
        before = origin[:, None] + directions[:, hit] * (part * distance[hit])
        assert outside(before).min() > 0
    for part in np.linspace(0, 4, 200):
        passed = origin[:, None] + directions[:, ~hit] * part
        assert outside(passed).min() > -1e-4


@pytest.mark.parametrize("name", SHAPES)
def test_normals_are_unit_vectors_that_face_the_ray(name):
    shape, _ = SHAPES[name]
    origin = np.array([2.0, -1.5, -3.0], np.float32)
    directions = rays_from(origin)
    distance = shape.intersect(origin, directions)
    hit = np.isfinite(distance)
    points = origin[:, None] + directions[:, hit] * distance[hit]
    normals, uv, _ = shape.surface(points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1.0, atol=1e-5)
    assert ((normals * directions[:, hit]).sum(axis=0) < 1e-4).all()
    assert uv.shape == (2, hit.sum())


def test_a_far_small_ball_keeps_its_shape():
    origin = np.array([0.0, 0.0, -200.0], np.float32)
    radius = np.linspace(0.0, 0.2, 400)
    directions = np.stack([radius / 200, 0 * radius, 1 + 0 * radius]).astype(np.float32)
    distance = Ellipsoid((0.1, 0.1, 0.1)).intersect(origin, directions)
    seen = np.isfinite(distance)
    assert radius[seen].max() == pytest.approx(0.1, abs=1e-3)
    expected = 200 - np.sqrt(np.maximum(0.01 - radius[seen] ** 2, 0))
    np.testing.assert_allclose(distance[seen], expected, atol=2e-2)


def test_a_room_is_hit_from_inside_everywhere():
    room = Box((2.0, 1.4, 3.0), inside=True)
    origin = np.array([0.5, 0.2, -1.0], np.float32)
    directions = np.random.default_rng(1).normal(0, 1, (3, 5000)).astype(np.float32)
    distance = room.intersect(origin, directions)
    points = origin[:, None] + directions * distance
    faces = np.max(np.abs(points) / [[2.0], [1.4], [3.0]], axis=0)
    np.testing.assert_allclose(faces, 1.0, atol=1e-4)
    normals, _, face = room.surface(points)
    assert set(np.unique(face)) == set(range(6))
    assert ((normals * directions).sum(axis=0) < 0).all()


def test_the_ground_is_seen_from_above_only():
    down = np.array([[0.0], [0.5], [1.0]], np.float32)
    eye = np.array([0.0, -1.6, 0.0], np.float32)
    np.testing.assert_allclose(Ground().intersect(eye, down), [3.2])
    assert np.isinf(Ground().intersect(eye, -down))[0]


def test_rigid_inverse():
    pose = at(1.0, -2.0, 3.0, 33.0)
    np.testing.assert_allclose(rigid_inverse(pose) @ pose, np.eye(4), atol=1e-12)
