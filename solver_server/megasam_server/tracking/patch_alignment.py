"""Sub-pixel alignment of small patches that turn, grow and shear: affine Lucas-Kanade, many patches at a time.

A patch matched by translation alone drifts as soon as the camera comes closer or turns: on a
rendered dolly 0.4 px within ten frames. With six parameters per patch it does not. Inverse
compositional form (Baker & Matthews, "Lucas-Kanade 20 Years On", IJCV 2004, section 3.2) on
patches normalised to zero mean and unit contrast, so that exposure does not matter (Shi & Tomasi
1994 for the affine motion model of features).
"""

from __future__ import annotations

import cv2
import numpy as np

from megasam_server.media.in_order import map_in_order

RADIUS = 7
_SIDE = 2 * RADIUS + 1
_DY, _DX = (
    grid.ravel().astype(np.float32) for grid in np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
)
_WINDOW = np.exp(-(_DX**2 + _DY**2) / (2 * (0.6 * RADIUS) ** 2)).astype(np.float32)
_ITERATIONS = 6
_AT_A_TIME = 256
# Weak texture does not show six parameters: the affine part is held to its value of the frame before, with this
# stiffness in units of the normalised patch.
_AFFINE_STIFFNESS = 4.0


def cut_patches(gray: np.ndarray, xy: np.ndarray, affine: np.ndarray | None = None) -> np.ndarray:
    """Patches of 15x15 samples round points, zero mean and unit (windowed) contrast.

    Args:
        gray: uint8 [H,W]. xy: centres, float32 [K,2]. affine: shape of each patch, float32 [K,2,2]; None = upright.

    Returns:
        float32 [K,225].
    """
    if not len(xy):
        return np.empty((0, _SIDE**2), np.float32)
    if affine is None:
        x, y = xy[:, :1] + _DX, xy[:, 1:] + _DY
    else:
        x = xy[:, :1] + affine[:, 0, :1] * _DX + affine[:, 0, 1:] * _DY
        y = xy[:, 1:] + affine[:, 1, :1] * _DX + affine[:, 1, 1:] * _DY
    values = cv2.remap(
        gray,
        x.astype(np.float32),
        y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float32)
    values -= (values * _WINDOW).sum(axis=1, keepdims=True) / _WINDOW.sum()
    contrast = np.sqrt((values**2 * _WINDOW).sum(axis=1, keepdims=True))
    return values / np.maximum(contrast, 1e-3)


def align(
    gray: np.ndarray, templates: np.ndarray, xy: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move and deform each patch until the picture looks like its template.

    Args:
        gray: uint8 [H,W]. templates: from :func:`cut_patches`, float32 [K,225].
        xy, affine: where to start, float32 [K,2] and [K,2,2]; ``gray(xy + affine d)`` is compared with the template.

    Returns:
        xy [K,2], affine [K,2,2], and the correlation of template and patch there, float32 [K] in -1..1.
    """
    parts = [slice(start, start + _AT_A_TIME) for start in range(0, len(xy), _AT_A_TIME)]
    if not parts:
        return xy, affine, np.empty(0, np.float32)
    aligned = map_in_order(
        lambda part: _align(gray, templates[part], xy[part], affine[part]), parts
    )
    return tuple(np.concatenate(arrays) for arrays in zip(*aligned, strict=True))


def _align(
    gray: np.ndarray, templates: np.ndarray, xy: np.ndarray, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    square = templates.reshape(-1, _SIDE, _SIDE)
    slope_y, slope_x = np.gradient(square, axis=(1, 2))
    slope_x, slope_y = slope_x.reshape(len(xy), -1), slope_y.reshape(len(xy), -1)
    jacobian = np.stack(
        [slope_x, slope_y, slope_x * _DX, slope_x * _DY, slope_y * _DX, slope_y * _DY], axis=1
    )
    weighted = jacobian * _WINDOW
    hessian = weighted @ np.swapaxes(jacobian, 1, 2)
    hessian[:, range(2, 6), range(2, 6)] += _AFFINE_STIFFNESS
    hessian[:, range(2), range(2)] += 1e-6
    inverse = np.linalg.inv(hessian.astype(np.float64)).astype(np.float32)
    xy, affine = xy.copy(), affine.copy()
    for _ in range(_ITERATIONS):
        error = cut_patches(gray, xy, affine) - templates
        step = np.einsum("kij,kj->ki", inverse, np.einsum("kip,kp->ki", weighted, error))
        step = np.clip(step, -1.0, 1.0)
        deform = np.eye(2, dtype=np.float32) + np.clip(step[:, 2:].reshape(-1, 2, 2), -0.2, 0.2)
        affine = affine @ np.linalg.inv(deform)
        xy = xy - np.einsum("kij,kj->ki", affine, step[:, :2])
    found = cut_patches(gray, xy, affine)
    return xy, affine, (found * templates * _WINDOW).sum(axis=1)
