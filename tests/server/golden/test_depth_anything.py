"""Depth Anything against the reference networks (G14) and the official listings."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.models.depth_anything import DepthAnything  # noqa: E402
from megasam_server.models.image_input import imagenet_normalised, unit_range  # noqa: E402
from megasam_server.models.network_size import (  # noqa: E402
    depth_anything_v1_size,
    depth_anything_v2_size,
)

from tests.server.golden.weight_rule import golden_state_dict, key_listing, shapes_of  # noqa: E402

VECTORS = "G14_depth_anything_vits"
ATOL = 2e-5
"""Tokens up to 4.4, depths up to 0.6: 50 times closer than the vectors' README asks for."""


@pytest.fixture(scope="module")
def weights():
    """One set for both versions: their listings are the same."""
    with torch.device("meta"):
        shapes = shapes_of(DepthAnything("vits", 1).state_dict())
    return golden_state_dict(shapes)


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def network(request, weights):
    with torch.device("meta"):
        network = DepthAnything("vits", request.param)
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval()


@torch.no_grad()
def test_golden_depth_of_both_versions(golden, network):
    vectors, name = golden(VECTORS), f"v{network.version}"
    images = torch.from_numpy(vectors["input"])
    np.testing.assert_allclose(
        network.before_relu(images), vectors[f"{name}_pre_relu"], rtol=0, atol=ATOL
    )
    np.testing.assert_allclose(network(images), vectors[f"{name}_depth"], rtol=0, atol=ATOL)


@torch.no_grad()
@pytest.mark.parametrize("network", [2], indirect=True)
def test_golden_depth_of_an_upright_image(golden, network):
    vectors = golden(VECTORS)
    depth = network(torch.from_numpy(vectors["input2"]))
    np.testing.assert_allclose(depth, vectors["v2_depth2"], rtol=0, atol=ATOL)


@torch.no_grad()
def test_golden_tokens_of_the_backbone(golden, network):
    vectors = golden(VECTORS)
    blocks = {1: (8,), 2: (2, 11)}[network.version]
    outputs = network.pretrained(torch.from_numpy(vectors["input"]), blocks)
    for block, (patches, _) in zip(blocks, outputs, strict=True):
        expected = vectors[f"v{network.version}_tokens_blk{block}"]
        np.testing.assert_allclose(patches, expected, rtol=0, atol=ATOL)
    if network.version == 2:
        np.testing.assert_allclose(outputs[-1][1], vectors["v2_cls_blk11"], rtol=0, atol=ATOL)


def test_golden_normalised_input(golden):
    vectors = golden(VECTORS)
    rgb = torch.from_numpy(vectors["raw_bgr_u8"][..., ::-1].copy()).permute(2, 0, 1)[None]
    got = imagenet_normalised(unit_range(rgb))
    np.testing.assert_allclose(got, vectors["input"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("listing", "encoder", "version"),
    [
        ("dav1_vits", "vits", 1),
        ("dav2_vits", "vits", 2),
        ("dav2_vitb", "vitb", 2),
        ("dav2_vitl", "vitl", 2),
    ],
)
def test_golden_listing_is_ours_key_for_key(golden, listing, encoder, version):
    with torch.device("meta"):
        network = DepthAnything(encoder, version)
    official = key_listing(golden(f"{listing}_state_dict"))
    assert shapes_of(network.state_dict()) == official
    files = {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, (shape, dtype) in official.items()
    }
    network.load_state_dict(files, strict=True, assign=True)


def test_golden_network_sizes(golden):
    for rule in golden("G16_resize_rules"):
        size = rule["w"], rule["h"]
        assert depth_anything_v1_size(*size) == tuple(rule["da_v1_768"])
        assert depth_anything_v2_size(*size) == tuple(rule["da_v2_518"])
