"""The DROID network of MegaSaM against the reference: features, correlation, update, upsampling."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.models.convex_upsampling import upsample_convex  # noqa: E402
from megasam_server.models.correlation import (  # noqa: E402
    CorrelationVolume,
    OnTheFlyCorrelation,
)
from megasam_server.models.droid_net import DroidNet  # noqa: E402

from tests.server.golden.weight_rule import fill_by_rule, key_listing, shapes_of  # noqa: E402


@pytest.fixture(scope="module")
def network() -> DroidNet:
    return fill_by_rule(DroidNet())


def close(ours: torch.Tensor, reference, absolute: float) -> None:
    """Same shape and dtype, and nowhere farther apart than ``absolute``."""
    reference = torch.from_numpy(reference)
    torch.testing.assert_close(ours, reference.to(ours.dtype), rtol=0, atol=absolute)


@torch.inference_mode()
def test_golden_g01_features(golden, network):
    vectors = golden("G01_droid_features")
    images = torch.from_numpy(vectors["images_bgr_u8"][0])
    close(network.features(images), vectors["fmaps"][0], 1e-4)  # values up to 10
    raw = network.cnet(network._normalised(images[:1]))
    close(raw, vectors["cnet_raw_frame0"][0], 1e-4)
    net, inp = network.context(images[1:2])
    close(net, vectors["net_tanh_frame1"][0], 1e-4)
    close(inp, vectors["inp_relu_frame1"][0], 1e-4)


@torch.inference_mode()
def test_golden_g02_correlation_volume(golden):
    vectors = golden("G02_corr")
    fmaps = torch.from_numpy(golden("G01_droid_features")["fmaps"][0])
    ii, jj = torch.from_numpy(vectors["ii"]), torch.from_numpy(vectors["jj"])
    volume = CorrelationVolume(fmaps[ii], fmaps[jj])
    for level in (0, 1):  # 1e-3: dot products of 128 terms, up to 48, in another order
        close(volume.levels[level][0, 0], vectors[f"level{level}_edge0_row0"], 1e-3)
    for level in (2, 3):
        close(volume.levels[level], vectors[f"level{level}"], 1e-3)
    coords = torch.from_numpy(vectors["coords"][0])
    close(volume.lookup(coords), vectors["lookup"][0], 1e-3)


@torch.inference_mode()
def test_golden_g02_correlation_on_the_fly(golden):
    vectors = golden("G02_corr")
    fmaps = torch.from_numpy(golden("G01_droid_features")["fmaps"][0])
    coords = torch.from_numpy(vectors["coords"][0])
    ii, jj = torch.from_numpy(vectors["ii"]), torch.from_numpy(vectors["jj"])
    windows = OnTheFlyCorrelation(fmaps, scratch_bytes=1).lookup(coords, ii, jj)
    close(windows[:1], vectors["alt_lookup_edge0"][0], 1e-3)
    close(windows, vectors["lookup"][0], 1e-3)


@torch.inference_mode()
def test_golden_g03_update(golden, network):
    vectors = golden("G03_update")
    net, inp, corr, motion = (
        torch.from_numpy(vectors[name][0]).float() for name in ("net", "inp", "corr", "motion")
    )
    out = network.update(net, inp, corr, motion, torch.from_numpy(vectors["ii"]))
    close(out.net, vectors["net_out"][0], 1e-4)
    close(out.delta, vectors["delta"][0], 1e-4)
    close(out.weight, vectors["weight"][0], 1e-4)
    close(out.eta, vectors["eta"][0], 1e-6)  # values of 0.01: 1e-4 of them
    close(out.motion_weight, vectors["mot_weight"][0], 1e-4)
    close(out.static_probability, vectors["refined_w"][:, 0], 1e-4)
    close(out.upmask[:1], vectors["upmask"][0], 1e-4)  # the file holds the first source frame


@torch.inference_mode()
def test_golden_g03_update_without_motion_and_sources(golden, network):
    vectors = golden("G03_update")
    net, inp, corr = (torch.from_numpy(vectors[name][0]).float() for name in ("net", "inp", "corr"))
    out = network.update(net, inp, corr)
    close(out.delta, vectors["delta_noflow"][0], 1e-4)
    close(out.weight, vectors["weight_noflow"][0], 1e-4)
    assert out[3:] == (None, None, None, None)


def test_golden_g03b_convex_upsampling(golden):
    vectors = golden("G03b_upsample")
    disparity = torch.from_numpy(vectors["disp"])  # [1,1,h,w]
    mask = torch.from_numpy(vectors["upmask"][0])  # [1,576,h,w]
    close(upsample_convex(disparity, mask)[0], vectors["disp_up"][0], 1e-5)


def test_golden_droid_state_dict(golden):
    """The same keys, shapes and dtypes; so a file loads strictly in either direction."""
    assert shapes_of(DroidNet().state_dict()) == key_listing(golden("droid_state_dict"))
