"""Radial distortion as part of the bundle adjustment and of the rays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from megasam_server.tracking.bundle import BundleOptions, Scene, _NormalEquations, adjust
from megasam_server.tracking.triangulation import bearings, triangulate

from tests.server.tracking.synthetic import Shot, orbit, perturbed


def bent(k1: float, num: int = 12, points: int = 150, focal: float = 450.0) -> Shot:
    """An orbit through a lens of radial distortion ``k1``."""
    shot = orbit(num, points, focal)
    scene = replace(shot.scene, k1=k1)
    return Shot(scene, replace(shot.seen, xy=shot.seen.xy + scene.residuals(shot.seen)))


@pytest.mark.parametrize("k1", [-0.15, 0.1])
def test_rays_are_straight_after_the_distortion_is_taken_out(k1):
    shot = bent(k1)
    y = shot.scene.in_camera(shot.seen)
    true = y / np.linalg.norm(y, axis=1, keepdims=True)
    np.testing.assert_allclose(bearings(shot.scene, shot.seen), true, atol=1e-4)
    found = triangulate(shot.scene, shot.seen, np.arange(len(shot.scene.points)))
    np.testing.assert_allclose(found, shot.scene.points, atol=1e-3)


@pytest.mark.parametrize("k1", [-0.15, 0.0, 0.1])
def test_the_distortion_is_recovered_with_everything_else(k1):
    shot = bent(k1)
    start = replace(perturbed(shot.scene, 1.0, 0.05, 1.05, 0.02), k1=0.0)
    solved, summary = adjust(start, shot.seen, BundleOptions(distortion=True, iterations=14))
    assert solved.k1 == pytest.approx(k1, abs=1e-4)
    np.testing.assert_allclose(solved.focal, 450, rtol=1e-4)
    assert summary.final_cost < 1e-4


def test_it_stays_where_it_is_when_it_is_not_solved_for():
    shot = bent(-0.1)
    solved, _ = adjust(
        perturbed(shot.scene, 0.5, 0.02, 1.02, 0.01), shot.seen, BundleOptions(iterations=14)
    )
    assert solved.k1 == 0.0  # perturbed() starts from a lens without distortion
    held, summary = adjust(
        replace(perturbed(shot.scene, 0.5, 0.02, 1.02, 0.01), k1=-0.1),
        shot.seen,
        BundleOptions(iterations=14),
    )
    assert held.k1 == -0.1
    assert summary.final_cost < 1e-6


@pytest.mark.parametrize("k1", [-0.1, 0.08])
def test_its_gradient_is_the_slope_of_the_cost(k1):
    shot = bent(k1, num=6, points=80).with_noise(0.5)
    scene = replace(perturbed(shot.scene, 0.05, 0.003, 1.002, 0.001), k1=k1 + 0.002)
    equations = _NormalEquations(scene, shot.seen, BundleOptions(distortion=True))
    equations.linearise(scene)

    def slope(moved_by) -> float:
        h = 1e-6
        return (equations.cost(moved_by(h)) - equations.cost(moved_by(-h))) / (2 * h)

    def moved(h: float) -> Scene:
        return replace(scene, k1=scene.k1 + h)

    def shifted(h: float) -> Scene:
        translation = scene.translation.copy()
        translation[3, 0] += h
        return replace(scene, translation=translation)

    def longer(h: float) -> Scene:
        return replace(scene, focal=scene.focal * np.exp(h))

    gradient = 2 * equations.gradient
    assert slope(moved) == pytest.approx(gradient[equations.distortion_column], rel=1e-4)
    assert slope(shifted) == pytest.approx(gradient[equations.pose_column[3, 3]], rel=1e-4)
    assert slope(longer) == pytest.approx(gradient[equations.focal_column[0]], rel=1e-4)
