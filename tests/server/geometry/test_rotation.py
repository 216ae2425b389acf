"""Rotations in batches, against scipy and at the ends of their range."""

import numpy as np
import pytest
from megasam_server.geometry.rotation import (
    angle_between,
    cross_matrix,
    nearest_rotation,
    rotation_from_vector,
)
from scipy.spatial.transform import Rotation

RNG = np.random.default_rng(5)


def test_cross_matrix_is_the_cross_product():
    a, b = RNG.normal(size=(2, 7, 3))
    np.testing.assert_allclose(np.einsum("nij,nj->ni", cross_matrix(a), b), np.cross(a, b))


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-12, 0.9e-8, 1.1e-8, 1e-6, 1e-3, 1.0, np.pi, 6.0])
def test_rotation_from_vector_agrees_with_scipy_at_every_size(size):
    v = RNG.normal(size=(20, 3))
    v *= size / np.linalg.norm(v, axis=1, keepdims=True)
    ours = rotation_from_vector(v)
    np.testing.assert_allclose(ours, Rotation.from_rotvec(v).as_matrix(), atol=2e-15 * max(1, size))
    np.testing.assert_allclose(
        ours @ np.swapaxes(ours, 1, 2), np.tile(np.eye(3), (20, 1, 1)), atol=1e-14
    )


def test_rotation_from_vector_keeps_the_leading_axes():
    v = RNG.normal(size=(2, 4, 3))
    batch = rotation_from_vector(v)
    assert batch.shape == (2, 4, 3, 3)
    np.testing.assert_array_equal(batch[1, 2], rotation_from_vector(v[1, 2]))


def test_nearest_rotation_leaves_rotations_alone_and_undoes_scale_and_noise():
    true = Rotation.random(50, random_state=1).as_matrix()
    np.testing.assert_allclose(nearest_rotation(3.0 * true), true, atol=1e-14)
    noisy = nearest_rotation(true + RNG.normal(0, 1e-3, true.shape))
    assert np.degrees(angle_between(noisy, true)).max() < 0.3
    np.testing.assert_allclose(np.linalg.det(noisy), 1.0)


def test_nearest_rotation_is_never_a_mirror_and_no_rotation_is_nearer():
    m = RNG.normal(size=(30, 3, 3))
    assert (np.linalg.det(m) < 0).any()
    found = nearest_rotation(m)
    np.testing.assert_allclose(np.linalg.det(found), 1.0)
    distance = np.linalg.norm(found - m, axis=(1, 2))
    # Neither any other rotation far away nor one a little turned is nearer.
    for other in Rotation.random(200, random_state=2).as_matrix():
        assert (np.linalg.norm(other - m, axis=(1, 2)) >= distance - 1e-12).all()
    turned = found @ rotation_from_vector(RNG.normal(0, 0.01, (30, 3)))
    assert (np.linalg.norm(turned - m, axis=(1, 2)) >= distance - 1e-12).all()


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-6, 1e-3, 0.5, 2.0, 3.1])
def test_angle_between_is_exact_down_to_tiny_angles(angle):
    start = np.eye(3)  # the entries of another rotation would round away what is measured
    axis = RNG.normal(size=(10, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    found = angle_between(start, Rotation.from_rotvec(angle * axis).as_matrix())
    np.testing.assert_allclose(found, angle, rtol=1e-9)


def test_angle_between_the_same_is_zero_and_opposite_is_pi():
    start = Rotation.random(random_state=3).as_matrix()
    assert angle_between(start, start) == 0
    half_turn = Rotation.from_rotvec([0, np.pi, 0]).as_matrix()
    assert angle_between(start, start @ half_turn) == pytest.approx(np.pi)
