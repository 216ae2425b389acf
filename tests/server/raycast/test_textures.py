"""Textures tile, filter without aliasing and are the same every time."""

import numpy as np
import pytest
from megasam_server.raycast.textures import Texture, texture

KINDS = ["plaster", "rough", "tiles", "bricks", "planks", "poster", "cloth", "clouds"]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_texels_other_seed_others(kind):
    first = texture(kind, 3, 1.0, size=256).levels[0]
    texture.cache_clear()
    np.testing.assert_array_equal(first, texture(kind, 3, 1.0, size=256).levels[0])
    assert (first != texture(kind, 4, 1.0, size=256).levels[0]).mean() > 0.05
    assert first.std() > 3


def test_sampling_repeats_with_the_period():
    skin = texture("rough", 1, 0.5, size=256)
    uv = np.random.default_rng(0).uniform(0.1, 0.4, (2, 500)).astype(np.float32)
    small = np.full(500, 1e-4, np.float32)
    near, far = skin.sample(uv, small), skin.sample(uv + np.float32(2.5), small)
    assert np.abs(near - far).mean() < 0.003


def test_filtering_keeps_the_mean_and_removes_the_detail():
    skin = texture("poster", 2, 1.0, size=512)
    uv = np.random.default_rng(0).uniform(0, 5, (2, 20000)).astype(np.float32)
    spreads = []
    means = []
    for footprint in (0.002, 0.02, 0.2, 5.0):
        rgb = skin.sample(uv, np.full(20000, footprint, np.float32))
        spreads.append(rgb.std(axis=0).mean())
        means.append(rgb.mean(axis=0))
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 0.02 * spreads[0]
    np.testing.assert_allclose(means, np.broadcast_to(means[0], (4, 3)), rtol=0.04)


def test_a_step_lies_where_the_coordinates_say():
    rgb = np.zeros((64, 64, 3))
    rgb[:, 32:] = 1.0
    skin = Texture(lambda: rgb, 1.0)
    u = np.linspace(0.3, 0.7, 4001, dtype=np.float32)
    values = skin.sample(np.stack([u, 0 * u + 0.5]), np.full(4001, 1e-5, np.float32))[:, 0]
    crossing = u[np.argmax(values >= 0.25)]  # half-way in the square-root domain
    assert crossing == pytest.approx(0.5, abs=0.001)
