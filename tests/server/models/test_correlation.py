"""Correlation: the kept volume, the one formed on the fly, and torch's own sampler agree."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from megasam_server.models.correlation import (  # noqa: E402
    CorrelationVolume,
    OnTheFlyCorrelation,
)
from megasam_shared.errors import MegasamError  # noqa: E402

FRAMES, CHANNELS, HEIGHT, WIDTH = 4, 24, 11, 13  # odd sides: levels floor
II = torch.tensor([0, 2, 0, 3, 1])
JJ = torch.tensor([1, 0, 3, 3, 2])


@pytest.fixture
def fmaps() -> torch.Tensor:
    torch.manual_seed(1)
    return 3 * torch.randn(FRAMES, CHANNELS, HEIGHT, WIDTH)


@pytest.fixture
def coords() -> torch.Tensor:
    """Inside, on whole pixels, over the edges and far away."""
    torch.manual_seed(2)
    places = torch.rand(len(II), HEIGHT, WIDTH, 2) * 24 - 5
    places[0] = places[0].round()
    places[1, 0, 0] = torch.tensor([1e12, -1e12])
    places[1, 0, 1] = torch.tensor([WIDTH - 1.0, HEIGHT - 1.0])
    return places


def sampled_by_torch(fmaps: torch.Tensor, coords: torch.Tensor, radius: int) -> torch.Tensor:
    """The definition, step by step, in float64."""
    source, target = fmaps[II].double(), fmaps[JJ].double()
    volume = torch.einsum("ecyx,ecvu->eyxvu", source, target) / 16
    reach = torch.arange(-radius, radius + 1, dtype=torch.float64)
    offsets = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), -1)  # (x, y), x-major
    found = []
    for level in range(4):
        if level:
            pooled = F.avg_pool2d(volume.flatten(0, 2), 2)
            volume = pooled.view(*volume.shape[:3], *pooled.shape[1:])
        rows, columns = volume.shape[3:]
        places = coords.double()[..., None, None, :] / 2**level + offsets
        # In units of half the image, as grid_sample wants it, also for one row or column.
        grid = (2 * places + 1) / torch.tensor([columns, rows]) - 1
        images = volume.reshape(-1, 1, rows, columns)
        window = F.grid_sample(images, grid.flatten(0, 2), align_corners=False)
        found.append(window.view(*coords.shape[:3], -1))
    return torch.cat(found, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("radius", [3, 4])
def test_lookup_is_bilinear_sampling_of_the_pooled_volume(fmaps, coords, radius):
    ours = CorrelationVolume(fmaps[II], fmaps[JJ], radius).lookup(coords)
    expected = sampled_by_torch(fmaps, coords, radius)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=2e-5)
    assert ours.shape == (len(II), 4 * (2 * radius + 1) ** 2, HEIGHT, WIDTH)
    assert (ours[1, :, 0, 0] == 0).all(), "far outside the image"


@pytest.mark.parametrize("scratch_bytes", [1, 3 * 4 * 30_000, 2**28])
def test_on_the_fly_equals_the_volume(fmaps, coords, scratch_bytes):
    """However many edges are formed at a time."""
    kept = CorrelationVolume(fmaps[II], fmaps[JJ]).lookup(coords)
    formed = OnTheFlyCorrelation(fmaps, scratch_bytes).lookup(coords, II, JJ)
    torch.testing.assert_close(formed, kept, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float16, 0.01),  # 11 bits of values up to 30: inputs, volume and result rounded
        (torch.bfloat16, 0.08),  # 8 bits
    ],
)
def test_half_precision_storage(fmaps, coords, dtype, tolerance):
    volume = CorrelationVolume(fmaps[II].to(dtype), fmaps[JJ].to(dtype))
    assert {level.dtype for level in volume.levels} == {dtype}
    exact = CorrelationVolume(fmaps[II], fmaps[JJ]).lookup(coords)
    found = volume.lookup(coords)
    assert found.dtype == dtype
    spread = exact.std()
    assert (found.float() - exact).abs().max() < 8 * tolerance * spread
    assert (found.float() - exact).std() < tolerance * spread


def test_edges_are_chosen_and_appended(fmaps, coords):
    whole = CorrelationVolume(fmaps[II], fmaps[JJ])
    parts = CorrelationVolume(fmaps[II[:2]], fmaps[JJ[:2]]).cat(
        CorrelationVolume(fmaps[II[2:]], fmaps[JJ[2:]])
    )
    assert len(parts) == len(whole) == len(II)
    torch.testing.assert_close(parts.lookup(coords), whole.lookup(coords), rtol=0, atol=1e-5)
    keep = torch.tensor([True, False, True, False, True])
    torch.testing.assert_close(whole[keep].lookup(coords[keep]), whole.lookup(coords)[keep])
    torch.testing.assert_close(whole[1:3].lookup(coords[1:3]), whole.lookup(coords)[1:3])


def test_no_edges(fmaps, coords):
    none = II[:0]
    assert CorrelationVolume(fmaps[none], fmaps[none]).lookup(coords[:0]).shape[:2] == (0, 196)
    assert OnTheFlyCorrelation(fmaps).lookup(coords[:0], none, none).shape[:2] == (0, 196)


def test_an_image_too_small_for_the_pyramid_is_refused():
    small = torch.zeros(1, 4, 7, 30)
    with pytest.raises(MegasamError, match="240x56 .* 64 pixels") as raised:
        CorrelationVolume(small, small)
    assert raised.value.code == "image_too_small"
