"""The view transform against its published definitions."""

from __future__ import annotations

import numpy as np
import OpenImageIO as oiio
import pytest
from megasam_server.media.view_transform import (
    SceneView,
    cineon_to_linear,
    exposure_of,
    integers_to_8bit,
    luminance_sample,
    soft_clip,
    srgb_encode,
)


def test_srgb_curve_agrees_with_opencolorio():
    values = np.linspace(0, 1, 4096, dtype=np.float32)
    image = oiio.ImageBuf(np.repeat(values, 3).reshape(1, -1, 3))
    expected = oiio.ImageBufAlgo.colorconvert(
        image, "Linear Rec.709 (sRGB)", "sRGB Encoded Rec.709 (sRGB)"
    ).get_pixels(oiio.FLOAT)[0, :, 0]
    assert np.abs(srgb_encode(values) - expected).max() < 2e-4


def test_cineon_points():
    """Black at 95, white at 685, one stop per 90.3 codes around white."""
    black, white = cineon_to_linear(np.array([95, 685]))
    assert black == pytest.approx(0, abs=1e-9) and white == pytest.approx(1)
    stop = 0.6 / 0.002 * np.log10(2)
    assert cineon_to_linear(np.array(685 + stop)) == pytest.approx(2, rel=0.02)
    assert cineon_to_linear(np.array(1023)) == pytest.approx(13.52, rel=0.01)


def test_soft_clip_is_smooth_and_never_reaches_past_one():
    x = np.linspace(-1, 8, 90001)
    y = soft_clip(x)
    slope = np.diff(y) / np.diff(x)
    assert y.min() == 0 and y.max() <= 1
    assert np.all(slope[x[:-1] > 0] > 0)
    inside = x[1:-1] > 0.01
    assert np.abs(np.diff(slope))[inside].max() < 1e-3
    assert np.array_equal(y[(x >= 0) & (x <= 0.6)], x[(x >= 0) & (x <= 0.6)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_view_of_a_ramp(dtype):
    ramp = np.linspace(0, 40, 3 * 5000).reshape(1, -1, 3).astype(dtype)
    seen = SceneView(is_log=False, exposure=0.5).apply(ramp)
    assert seen.dtype == np.uint8
    exact = 255 * srgb_encode(soft_clip(ramp.astype(np.float64) * 0.5))
    assert np.abs(seen - exact).max() < 0.75  # half a code, and half floats of float32 values
    special = np.array([[[-1.0, 0.0, 1e4]]], dtype)
    assert SceneView(False, 1.0).apply(special).tolist() == [[[0, 0, 255]]]


def test_exposure_ignores_borders_and_lamps():
    scene = np.full((200, 200, 3), 0.02, np.float32)
    plain = exposure_of([luminance_sample(scene, False)])
    assert plain == pytest.approx(0.18 / 0.02, rel=1e-3)
    scene[:60] = 0
    scene[60:70, :50] = 5000
    assert exposure_of([luminance_sample(scene, False)]) == pytest.approx(plain, rel=1e-3)
    assert exposure_of([luminance_sample(np.zeros((9, 9, 3), np.float32), False)]) == 1.0


def test_sixteen_bit_rounds():
    codes = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    assert np.abs(integers_to_8bit(codes).reshape(-1) - codes.reshape(-1) / 257).max() <= 0.5
