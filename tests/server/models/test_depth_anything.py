"""Depth Anything: the backbone beside timm's own, resizing beside OpenCV's, reduced precision."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import timm  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from megasam_server.models.depth_anything import DepthAnything, Fusion  # noqa: E402
from megasam_server.models.dinov2 import VIT_SIZES, Dinov2  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402

from tests.server.golden.weight_rule import fill_by_rule  # noqa: E402


@pytest.fixture(scope="module")
def network():
    return fill_by_rule(DepthAnything("vits", 2))


def twin_of(network, version=2, dtype=torch.float32):
    """The same weights in another version or precision, run at 84x56 whatever the frame's size."""
    with torch.device("meta"):
        twin = DepthAnything("vits", version).eval()
    weights = {key: value.to(dtype) for key, value in network.state_dict().items()}
    twin.load_state_dict(weights, assign=True)
    twin.network_size = lambda width, height: (84, 56)
    return twin


def photograph(height, width, batch=1):
    """A smooth random picture, uint8 [B,3,H,W]."""
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    smooth = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in frames])
    return torch.from_numpy(smooth).permute(0, 3, 1, 2)


@torch.no_grad()
def test_the_backbone_is_timms_own_network():
    """Weights go both ways, and at the trained size, where nothing is resized, so do the numbers."""
    with torch.device("meta"):
        other = timm.create_model(
            "vit_small_patch14_dinov2", pretrained=False, num_classes=0, depth=2
        )
    ours = fill_by_rule(Dinov2(VIT_SIZES["vits"], grid_offset=0.1))
    ours.blocks = ours.blocks[:2]
    weights = ours.state_dict()
    del weights["mask_token"]  # of training only; timm has none
    other.load_state_dict(weights, strict=True, assign=True)
    images = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    (patches, token), expected = ours(images, (1,))[0], other.eval().forward_features(images)
    np.testing.assert_allclose(token, expected[:, 0], atol=2e-5)
    np.testing.assert_allclose(patches, expected[:, 1:], atol=2e-5)


@torch.no_grad()
def test_new_weights_are_not_met_with_the_old_position_embedding():
    vit = Dinov2(VIT_SIZES["vits"], grid_offset=0.1).eval()
    vit.blocks = vit.blocks[:1]
    images = torch.randn(1, 3, 28, 42)
    before = vit(images, (0,))[0][0]
    weights = vit.state_dict()
    weights["pos_embed"] = torch.randn_like(weights["pos_embed"])
    vit.load_state_dict(weights)
    after = vit(images, (0,))[0][0]
    assert not torch.allclose(before, after)
    assert vit.double()(images.double(), (0,))[0][0].dtype == torch.float64
    vit.float().train()
    np.testing.assert_allclose(vit(images, (0,))[0][0], after, atol=1e-4)
    with torch.enable_grad():
        for _ in range(2):  # nothing of the first pass is in the way of the second
            vit.eval()(images, (0,))[0][0].sum().backward()
    assert vit.pos_embed.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(84, 154), (266, 154), (100, 100)])
def test_resizing_is_opencvs_bicubic(size):
    image = np.random.default_rng(0).random((108, 192, 3))
    expected = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    tensor = torch.from_numpy(image).float().permute(2, 0, 1)[None]
    got = F.interpolate(tensor, size[::-1], mode="bicubic")[0].permute(1, 2, 0)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_disparity_of_plate_frames_is_the_published_procedure(network, version):
    """Beside OpenCV's resizing and the network called by hand; every frame of a batch by itself."""
    twin = twin_of(network, version)
    frames = photograph(45, 70, batch=2)
    got = twin.disparity(frames)
    assert got.shape == (2, 45, 70) and got.dtype == torch.float32
    image = cv2.resize(
        frames[1].permute(1, 2, 0).numpy() / 255.0, (84, 56), interpolation=cv2.INTER_CUBIC
    )
    image = (image - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.no_grad():
        small = twin(torch.from_numpy(image).float().permute(2, 0, 1)[None])
    expected = F.interpolate(small[None], (45, 70), mode="bilinear", align_corners=version == 2)
    np.testing.assert_allclose(got[1], expected[0, 0], atol=1e-3 * expected.max().item())
    as_floats = twin.disparity(frames.float() / 255)
    np.testing.assert_allclose(as_floats, got, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)], ids=str
)
def test_reduced_precision(network, dtype, tolerance):
    """Root mean square difference from float32, as a share of the range of the disparities."""
    frames = photograph(45, 70)
    exact = twin_of(network).disparity(frames)
    got = twin_of(network, dtype=dtype).disparity(frames)
    assert got.dtype == torch.float32
    rms = (got - exact).square().mean().sqrt() / (exact.max() - exact.min())
    assert rms < tolerance


@torch.no_grad()
def test_the_fusion_may_convolve_before_it_resizes():
    fusion = fill_by_rule(Fusion(8))
    x, skip = torch.randn(2, 1, 8, 5, 7)
    late = fusion.resConfUnit2(x + fusion.resConfUnit1(skip))
    late = F.interpolate(late, (10, 13), mode="bilinear", align_corners=True)
    np.testing.assert_allclose(fusion(x, skip, (10, 13)), fusion.out_conv(late), atol=1e-5)


def test_errors_say_what_to_do(network):
    with pytest.raises(MegasamError) as caught:
        network(torch.zeros(1, 3, 70, 71))
    assert caught.value.code == "image_not_of_whole_patches"
    for encoder, version in (("vitg", 2), ("vits", 3)):
        with pytest.raises(MegasamError) as caught:
            DepthAnything(encoder, version)
        assert caught.value.code == "unknown_depth_network"
