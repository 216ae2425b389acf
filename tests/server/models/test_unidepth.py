"""UniDepth V2 beside the published code.

``unidepth_v2_vits_reference.npz`` holds what the published ViT-S network (the copy in mega-sam at
c2e0099, with xformers' own Nystrom attention) answers on CPU in float32 with the golden weight rule
and 60 instead of 2400 patches: images [2,3,48,64]; depth, confidence and predicted intrinsics
(fx, fy, cx, cy) without (``free_``) and with (``known_``) the camera ``given_camera``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.models.camera_rays import rays_of  # noqa: E402
from megasam_server.models.unidepth import UniDepthV2  # noqa: E402
from megasam_server.models.unidepth_blocks import HeadMixing  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402

from tests.server.golden.weight_rule import fill_by_rule  # noqa: E402

PATCHES = 60


@pytest.fixture(scope="module")
def network():
    return fill_by_rule(UniDepthV2("vits"))


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).with_name("unidepth_v2_vits_reference.npz")) as stored:
        return {key: torch.from_numpy(value) for key, value in stored.items()}


@pytest.mark.parametrize("camera", ["free", "known"])
def test_unidepth_is_the_published_network(network, reference, camera):
    known = reference["given_camera"] if camera == "known" else None
    got = network.infer(reference["images"], known, PATCHES)
    np.testing.assert_allclose(got.depth, reference[f"{camera}_depth"], rtol=2e-4, atol=1e-3)
    np.testing.assert_allclose(got.confidence, reference[f"{camera}_confidence"], atol=1e-5)
    np.testing.assert_allclose(got.intrinsics, reference[f"{camera}_intrinsics"], rtol=1e-5)


def test_frames_of_a_batch_are_on_their_own(network, reference):
    both = network.infer(reference["images"], patches=PATCHES)
    second = network.infer(reference["images"][1:].float() / 255, patches=PATCHES)
    np.testing.assert_allclose(second.depth, both.depth[1:], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(second.horizontal_fov, both.horizontal_fov[1:], rtol=1e-4)


def test_a_known_camera_changes_the_depth_but_not_the_prediction(reference):
    assert not torch.allclose(reference["free_depth"], reference["known_depth"], rtol=0.05)
    np.testing.assert_array_equal(reference["free_intrinsics"], reference["known_intrinsics"])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)], ids=str
)
def test_reduced_precision(network, reference, dtype, tolerance):
    """Median relative difference of depth and focal length from float32."""
    with torch.device("meta"):
        twin = UniDepthV2("vits").eval()
    weights = {key: value.to(dtype) for key, value in network.state_dict().items()}
    twin.load_state_dict(weights, assign=True)
    exact = network.infer(reference["images"], patches=20)
    got = twin.infer(reference["images"], patches=20)
    assert got.depth.dtype == got.intrinsics.dtype == torch.float32
    assert ((got.depth - exact.depth).abs() / exact.depth).median() < tolerance
    assert ((got.intrinsics - exact.intrinsics).abs() / exact.intrinsics).max() < tolerance


@torch.no_grad()
def test_tokens_do_not_see_each_other_in_the_head_mixing():
    block = fill_by_rule(HeadMixing(64, heads=8))
    x, place = torch.randn(2, 1, 30, 64)
    alone = block(x[:, 7:8], place[:, 7:8])
    np.testing.assert_allclose(block(x, place)[:, 7:8], alone, atol=1e-5)


def test_rays_go_through_pixel_centres():
    rays = rays_of(torch.tensor([[50.0, 40.0, 16.0, 12.0]]), 24, 32)
    assert rays.shape == (1, 3, 24, 32)
    np.testing.assert_allclose(rays.norm(dim=1), 1, atol=1e-6)
    x, y, z = rays[0, :, 3, 20]
    assert x / z == pytest.approx((20.5 - 16) / 50) and y / z == pytest.approx((3.5 - 12) / 40)


def test_an_unknown_encoder_is_an_error():
    with pytest.raises(MegasamError) as caught:
        UniDepthV2("vitb")
    assert caught.value.code == "unknown_depth_network"
