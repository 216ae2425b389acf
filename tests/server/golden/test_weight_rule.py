"""The weight rule itself, on keys of every kind."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from tests.server.golden.weight_rule import golden_array, golden_state_dict, key_listing


@pytest.mark.parametrize(
    ("key", "shape", "expected"),
    [
        ("conv.weight", (4, 3, 2, 2), lambda n: n / np.sqrt(np.float32(12))),
        ("conv.bias", (4,), lambda n: 0.01 * n),
        ("norm.weight", (4,), lambda n: 1 + 0.1 * n),
        ("ls1.gamma", (4,), lambda n: 1 + 0.1 * n),
        ("bn.running_mean", (4,), lambda n: 0.01 * n),
        ("bn.running_var", (4,), lambda n: 1 + 0.1 * np.abs(n)),
        ("pretrained.pos_embed", (1, 5, 4), lambda n: 0.1 * n),
    ],
)
def test_each_kind_of_key(key, shape, expected):
    normal = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    made = golden_array(key, shape)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected(normal.astype(np.float32)), rtol=1e-6)


@pytest.mark.parametrize("name", ["droid", "raft", "dav2_vits"])
def test_a_whole_listing_can_be_filled(golden, name):
    pytest.importorskip("torch")
    shapes = key_listing(golden(f"{name}_state_dict"))
    state = golden_state_dict(shapes)
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        key: shape for key, (shape, _) in shapes.items()
    }
