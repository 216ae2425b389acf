"""Bundle adjustment on scenes that are known exactly."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from megasam_server.geometry.rotation import rotation_from_vector
from megasam_server.tracking.bundle import (
    BundleOptions,
    Observations,
    Scene,
    _NormalEquations,
    adjust,
    robust_cost,
    tangent_basis,
)

from tests.server.tracking.synthetic import (
    Shot,
    arc,
    at_infinity,
    block,
    film,
    orbit,
    perturbed,
    rotation_errors_deg,
    tripod,
)


def wrong_start(shot: Shot, focal: float = 1.06) -> Scene:
    return perturbed(shot.scene, degrees=1.0, shift=0.05, focal=focal, depth=0.02)


def assert_same(solved: Scene, true: Scene, atol: float = 1e-5) -> None:
    """Equal but for the unit of length."""
    scale = np.linalg.norm(true.translation) / np.linalg.norm(solved.translation)
    np.testing.assert_allclose(solved.rotation, true.rotation, atol=atol)
    np.testing.assert_allclose(solved.translation * scale, true.translation, atol=atol * 10)
    np.testing.assert_allclose(solved.focal, true.focal, rtol=atol)
    points = solved.points * [scale, scale, scale, 1]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(points, true.points, atol=atol)


@pytest.mark.parametrize(
    ("mode", "focal", "start"),
    [
        ("shared", 600.0, 1.06),
        ("shared", 600.0, 0.85),
        ("fixed", 600.0, 1.0),
        ("each", np.geomspace(500, 800, 20), 1.06),
    ],
)
def test_exact_sightings_give_back_the_exact_scene(mode, focal, start):
    shot = orbit(points=300, focal=focal)
    solved, summary = adjust(
        wrong_start(shot, start), shot.seen, BundleOptions(focal=mode, iterations=14)
    )
    assert_same(solved, shot.scene)
    assert summary.final_cost < 1e-8 < summary.initial_cost


def test_fixed_focal_lengths_do_not_move_even_when_wrong():
    shot = orbit()
    start = wrong_start(shot, 1.06)
    solved, _ = adjust(start, shot.seen, BundleOptions(focal="fixed"))
    np.testing.assert_array_equal(solved.focal, start.focal)


def test_a_zoom_that_eases_is_followed():
    focal = 600 * (1 + 0.5 * np.linspace(0, 1, 20) ** 2 * (3 - 2 * np.linspace(0, 1, 20)))
    shot = orbit(focal=focal)
    start = replace(wrong_start(shot), focal=np.full(20, 700.0))
    solved, _ = adjust(start, shot.seen, BundleOptions(focal="each", iterations=14))
    np.testing.assert_allclose(solved.focal, focal, rtol=2e-3)


def test_points_stay_unit_vectors_with_w_towards_the_front():
    shot = orbit()
    solved, _ = adjust(wrong_start(shot), shot.seen, BundleOptions(iterations=8))
    np.testing.assert_allclose(np.linalg.norm(solved.points, axis=1), 1.0)
    assert (solved.points[:, 3] >= 0).all()


@pytest.mark.parametrize("mode", ["fixed", "shared", "each"])
def test_a_turning_camera_is_solved_without_depth(mode):
    shot = tripod(points=300)
    far = replace(shot.scene, points=at_infinity(shot.scene.points[:, :3]))
    far = replace(far, points=far.points / np.linalg.norm(far.points, axis=1, keepdims=True))
    start = perturbed(far, 0.5, 0.0, 1.0 if mode == "fixed" else 1.05, 0.005)
    solved, _ = adjust(start, shot.seen, BundleOptions(focal=mode, translate=False, iterations=14))
    assert rotation_errors_deg(solved, far).max() < 1e-4
    np.testing.assert_allclose(solved.focal, 600, rtol=1e-5)
    np.testing.assert_array_equal(solved.translation, 0)
    np.testing.assert_array_equal(solved.points[:, 3], 0)


def test_a_camera_that_stands_still_stays_finite_when_it_may_move():
    """No parallax, no depth: the normal equations are singular in many directions."""
    shot = tripod(points=200, num=8)
    start = replace(shot.scene, translation=np.zeros((8, 3)))
    for mode in ("shared", "each", "fixed"):
        solved, summary = adjust(start, shot.with_noise(0.2).seen, BundleOptions(focal=mode))
        for field in (solved.rotation, solved.translation, solved.focal, solved.points):
            assert np.isfinite(field).all()
        assert summary.final_cost <= summary.initial_cost


def test_points_at_infinity_among_near_ones_stay_there():
    rng = np.random.default_rng(4)
    sky = rng.normal(0, 0.3, (100, 3)) + [0, 0, 1]
    points = np.concatenate([block(1, 200, (-2, -1.2, -2), (2, 1.2, 2)), at_infinity(sky)])
    shot = film(arc(20), 600.0, points)
    assert (shot.scene.points[:, 3] == 0).sum() > 30
    solved, summary = adjust(wrong_start(shot), shot.seen, BundleOptions(iterations=14))
    assert_same(solved, shot.scene)
    assert summary.final_cost < 1e-8


def test_a_fifth_of_gross_outliers_moves_nothing():
    shot = orbit()
    rng = np.random.default_rng(6)
    bad = rng.random(len(shot.seen.xy)) < 0.2
    xy = shot.seen.xy.copy()
    angle = rng.uniform(0, 2 * np.pi, bad.sum())
    size = rng.uniform(15, 150, bad.sum())
    xy[bad] += (size * np.stack([np.cos(angle), np.sin(angle)])).T
    start = perturbed(shot.scene, degrees=0.2, shift=0.01, focal=1.01, depth=0.003)
    solved, _ = adjust(start, replace(shot.seen, xy=xy), BundleOptions(iterations=40))
    good = np.linalg.norm(solved.residuals(shot.seen), axis=1)[~bad]
    assert np.median(good) < 0.05
    assert rotation_errors_deg(solved, shot.scene).max() < 0.02
    np.testing.assert_allclose(solved.focal, 600, rtol=1e-3)


def test_fixed_cameras_stay_exactly_where_they_are():
    shot = orbit()
    start = wrong_start(shot)
    fixed = np.isin(np.arange(20), [0, 3, 4, 19])
    solved, _ = adjust(start, shot.seen, BundleOptions(fixed_cameras=fixed))
    np.testing.assert_array_equal(solved.rotation[fixed], start.rotation[fixed])
    np.testing.assert_array_equal(solved.translation[fixed], start.translation[fixed])
    assert (np.abs(solved.rotation[~fixed] - start.rotation[~fixed]).max(axis=(1, 2)) > 0).all()


def test_the_first_camera_stays_when_nothing_is_said():
    shot = orbit()
    start = wrong_start(shot)
    solved, _ = adjust(start, shot.seen, BundleOptions(iterations=5))
    np.testing.assert_array_equal(solved.rotation[0], start.rotation[0])
    np.testing.assert_array_equal(solved.translation[0], start.translation[0])


def test_fixed_points_stay_and_cameras_find_their_place():
    shot = orbit()
    start = perturbed(shot.scene, degrees=1.0, shift=0.05, focal=1.0, depth=0.0)
    options = BundleOptions(focal="fixed", fixed_points=True, fixed_cameras=np.zeros(20, bool))
    solved, _ = adjust(start, shot.seen, options)
    np.testing.assert_array_equal(solved.points, start.points)
    np.testing.assert_allclose(solved.translation, shot.scene.translation, atol=1e-6)
    np.testing.assert_allclose(solved.rotation, shot.scene.rotation, atol=1e-7)


def test_the_start_is_not_changed():
    shot = orbit(num=6, points=60)
    start = wrong_start(shot)
    before = copy.deepcopy(start)
    adjust(start, shot.seen, BundleOptions())
    for name, old in vars(before).items():
        np.testing.assert_array_equal(old, getattr(start, name))


def test_a_solved_scene_converges_at_once_and_costs_never_rise():
    shot = orbit().with_noise(0.3)
    solved, first = adjust(wrong_start(shot), shot.seen, BundleOptions(iterations=40))
    _, second = adjust(solved, shot.seen, BundleOptions())
    assert first.converged and second.converged
    assert second.iterations <= 3
    assert second.final_cost <= second.initial_cost == pytest.approx(first.final_cost)


def test_what_lies_behind_a_camera_counts_as_an_outlier_and_does_no_harm():
    shot = orbit()
    start = wrong_start(shot)
    behind = start.points.copy()
    behind[:5, :3] = -behind[:5, :3]
    solved, _ = adjust(replace(start, points=behind), shot.seen, BundleOptions(iterations=14))
    rest = shot.seen.point >= 5
    assert np.abs(solved.residuals(shot.seen.select(rest))).max() < 1e-3


def test_two_cameras_are_enough_for_a_zoom():
    shot = film(arc(3, degrees=12), 600.0, block(1, 120, (-2, -1.2, -2), (2, 1.2, 2)))
    pair = shot.seen.select(shot.seen.camera < 2)
    true = shot.scene
    scene = Scene(true.rotation[:2], true.translation[:2], true.focal[:2], true.points)
    solved, _ = adjust(scene, pair, BundleOptions(focal="each"))
    assert np.isfinite(solved.focal).all()


@pytest.mark.parametrize("mode", ["fixed", "shared", "each"])
@pytest.mark.parametrize("translate", [True, False])
def test_the_gradient_is_the_slope_of_the_cost(mode, translate):
    """Central differences of the cost along every column, and along every freedom of ten points."""
    shot = orbit(num=6, points=80).with_noise(0.5)
    scene = perturbed(shot.scene, 0.05, 0.003, 1.002, 0.001)
    if not translate:
        flat = at_infinity(scene.points[:, :3])
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
        scene = replace(scene, points=flat, translation=np.zeros((6, 3)))
    bent = scene.focal * (1 + 0.002 * np.sin(np.arange(6)))
    scene = replace(scene, focal=bent if mode == "each" else scene.focal)
    equations = _NormalEquations(scene, shot.seen, BundleOptions(focal=mode, translate=translate))
    equations.linearise(scene)

    def slope(moved_by) -> float:
        h = 1e-6
        return (equations.cost(moved_by(h)) - equations.cost(moved_by(-h))) / (2 * h)

    def posed(camera: int, axis: int):
        def move(h: float) -> Scene:
            delta = np.zeros((6, 6))
            delta[camera, axis] = h
            rotation = rotation_from_vector(delta[:, :3]) @ scene.rotation
            return replace(scene, rotation=rotation, translation=scene.translation + delta[:, 3:])

        return move

    def zoomed(cameras: np.ndarray):
        return lambda h: replace(scene, focal=scene.focal * np.exp(h * cameras))

    def shifted(point: int, way: np.ndarray):
        def move(h: float) -> Scene:
            points = scene.points.copy()
            points[point] += h * way
            points[point] /= np.linalg.norm(points[point])
            return replace(scene, points=points)

        return move

    numeric, analytic = [], []
    for camera in range(6):
        for axis in range(6):
            column = equations.pose_column[camera, axis]
            if column >= 0:
                numeric.append(slope(posed(camera, axis)))
                analytic.append(2 * equations.gradient[column])
    for column in np.unique(equations.focal_column[equations.focal_column >= 0]):
        numeric.append(slope(zoomed(equations.focal_column == column)))
        analytic.append(2 * equations.gradient[column])
    for point in range(10):
        for freedom in range(3 if translate else 2):
            numeric.append(slope(shifted(point, equations.basis[point, :, freedom])))
            analytic.append(2 * equations.point_gradient[point, freedom])
    expected = 5 * (6 if translate else 3) + {"fixed": 0, "shared": 1, "each": 6}[mode]
    assert len(numeric) == expected + 10 * (3 if translate else 2)
    assert np.abs(analytic).max() > 1
    np.testing.assert_allclose(analytic, numeric, rtol=1e-4, atol=1e-4 * np.abs(analytic).max())


def test_robust_cost_is_quadratic_for_small_and_slow_for_large_errors():
    assert robust_cost(np.array([[1e-4, 0.0]]), 1.0) == pytest.approx(1e-8, rel=1e-6)
    assert robust_cost(np.array([[100.0, 0.0]]), 1.0) == pytest.approx(np.log(10001))
    assert robust_cost(np.array([[20.0, 0.0]]), 2.0) == pytest.approx(4 * np.log(101))


@pytest.mark.parametrize("dof", [2, 3])
def test_tangent_basis_is_orthonormal_and_orthogonal_to_the_point(dof):
    points = np.random.default_rng(7).normal(size=(50, 4))
    if dof == 2:
        points[:, 3] = 0
    points[:4] = np.eye(4)[[0, 1, 2, 2 if dof == 2 else 3]]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    basis = tangent_basis(points, dof)
    np.testing.assert_allclose(np.einsum("pij,pi->pj", basis, points), 0, atol=1e-14)
    gram = np.einsum("pik,pil->pkl", basis, basis)
    np.testing.assert_allclose(gram, np.tile(np.eye(dof), (50, 1, 1)), atol=1e-14)
    if dof == 2:
        np.testing.assert_array_equal(basis[:, 3], 0)


def test_residuals_of_points_behind_or_beside_the_camera_are_huge_not_nan():
    scene = Scene(
        np.eye(3)[None], np.zeros((1, 3)), np.array([500.0]), np.eye(4)[[0, 2]] * [[1], [-1]]
    )
    seen = Observations(np.zeros(2, int), np.arange(2), np.zeros((2, 2)))
    assert (scene.residuals(seen) >= 1e3).all()


@pytest.mark.parametrize("translate", [True, False])
def test_points_taken_together_are_eliminated_as_all_at_once(translate, monkeypatch):
    """Beside the textbook's Schur complement with every matrix written out."""
    monkeypatch.setattr("megasam_server.tracking.point_elimination._POINTS_TOGETHER", 7)
    shot = orbit(num=6, points=40).with_noise(0.5)
    equations = _NormalEquations(shot.scene, shot.seen, BundleOptions(translate=translate))
    equations.linearise(shot.scene)
    dof, size, seen = equations.point_dof, equations.size, shot.seen
    coupling = np.zeros((size + 1, 40 * dof))
    for m in range(len(seen.camera)):
        columns = slice(dof * seen.point[m], dof * seen.point[m] + dof)
        block = equations.on_camera[m].T @ equations.on_point[m]
        np.add.at(coupling, (equations.columns[seen.camera[m]], columns), block)
    own = np.zeros((40 * dof, 40 * dof))
    for p in range(40):
        here = slice(dof * p, dof * p + dof)
        own[here, here] = equations.point_hessian[p] + 1e-9 * np.eye(dof)
    share = coupling[:-1] @ np.linalg.inv(own)
    expected = equations.hessian - share @ coupling[:-1].T
    right = equations.gradient - share @ equations.point_gradient.ravel()

    whitener = np.linalg.inv(np.linalg.cholesky(equations.point_hessian + 1e-9 * np.eye(dof)))
    on_point = equations.on_point @ np.swapaxes(whitener, 1, 2)[seen.point]
    whitened = np.swapaxes(equations.on_camera, 1, 2) @ on_point
    system, found = equations.hessian.copy(), equations.gradient.copy()
    gradient = np.einsum("pij,pj->pi", whitener, equations.point_gradient)
    equations.elimination.eliminate(system, found, whitened, gradient)
    scale = np.abs(equations.hessian).max()
    np.testing.assert_allclose(system / scale, expected / scale, atol=1e-9)
    np.testing.assert_allclose(found, right, atol=1e-6 * np.abs(equations.gradient).max())
