"""Patches that turn, grow and shear, against motions that are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from megasam_server.tracking.patch_alignment import align, cut_patches

from tests.server.tracking.moving_picture import HEIGHT, WIDTH, drift, texture

POINTS = np.stack(np.meshgrid(np.arange(30, 131, 20), np.arange(30, 91, 15)), -1).reshape(-1, 2)
UPRIGHT = np.tile(np.eye(2, dtype=np.float32), (len(POINTS), 1, 1))


def picture(matrix: np.ndarray, gain: float = 1.0, lift: float = 0.0) -> np.ndarray:
    """The resting picture moved by a homography about its middle, uint8."""
    away = np.eye(3)
    away[:2, 2] = -300
    smooth = cv2.GaussianBlur(texture(), (0, 0), 1.0)
    seen = cv2.warpPerspective(smooth, matrix @ away, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    return np.clip(gain * seen + lift, 0, 255).astype(np.uint8)


def moved(matrix: np.ndarray) -> np.ndarray:
    at = np.concatenate([POINTS, np.ones((len(POINTS), 1))], axis=1) @ matrix.T
    return at[:, :2] / at[:, 2:]


@pytest.mark.parametrize(
    "matrix",
    [
        drift((0.6, -0.4)),
        drift((0.3, 0.2), turn_deg=5.0),
        drift((0.2, 0.5), scale=1.08),
        drift((0.0, 0.0), scale=0.94) @ np.array([[1, 0.05, 0], [0, 1, 0], [0, 0, 1]]),
    ],
    ids=["shift", "turn", "grow", "shear"],
)
def test_place_and_shape_of_a_patch_are_found(matrix):
    """Started within a pixel of the truth, as the pyramid leaves it."""
    xy = POINTS.astype(np.float32)
    templates = cut_patches(picture(np.eye(3)), xy)
    true = moved(matrix)
    start = (true + np.random.default_rng(0).uniform(-0.7, 0.7, true.shape)).astype(np.float32)
    found, affine, correlation = align(picture(matrix), templates, start, UPRIGHT)
    error = np.linalg.norm(found - true, axis=1)
    assert np.median(error) < 0.05
    assert np.percentile(error, 90) < 0.15
    assert np.median(correlation) > 0.97
    # The shape follows too, though it is held back where the texture is weak.
    upright = np.abs(UPRIGHT - matrix[:2, :2]).sum(axis=(1, 2))
    followed = np.abs(affine - matrix[:2, :2]).sum(axis=(1, 2))
    assert np.median(followed) <= max(0.6 * np.median(upright), 0.03)


def test_exposure_does_not_matter():
    xy = POINTS.astype(np.float32)
    bright, dark = picture(np.eye(3)), picture(np.eye(3), gain=0.5, lift=20)
    found, _, correlation = align(dark, cut_patches(bright, xy), xy + np.float32(0.4), UPRIGHT)
    assert np.median(np.linalg.norm(found - xy, axis=1)) < 0.03
    assert correlation.min() > 0.97


def test_a_patch_of_something_else_does_not_correlate():
    xy = POINTS.astype(np.float32)
    templates = cut_patches(picture(np.eye(3)), xy)
    other = np.roll(picture(np.eye(3)), (37, 53), axis=(0, 1))
    _, _, correlation = align(other, templates, xy, UPRIGHT)
    assert np.median(correlation) < 0.7


def test_patches_have_no_mean_and_unit_contrast_wherever_they_lie():
    gray = picture(np.eye(3))
    rim = np.array([[0, 0], [WIDTH - 1, HEIGHT - 1], [80.5, 60.25]], np.float32)
    patches = cut_patches(gray, rim)
    assert patches.shape == (3, 225)
    assert np.isfinite(patches).all()
    np.testing.assert_allclose(cut_patches(gray, rim, UPRIGHT[:3]), patches, atol=1e-5)


def test_flat_pictures_and_no_points_do_no_harm():
    flat = np.full((HEIGHT, WIDTH), 90, np.uint8)
    xy = POINTS.astype(np.float32)
    found, affine, correlation = align(flat, cut_patches(flat, xy), xy, UPRIGHT)
    assert np.isfinite(found).all() and np.isfinite(affine).all()
    np.testing.assert_allclose(correlation, 0, atol=1e-3)
    none = xy[:0]
    found, affine, correlation = align(flat, cut_patches(flat, none), none, UPRIGHT[:0])
    assert len(found) == len(affine) == len(correlation) == 0
