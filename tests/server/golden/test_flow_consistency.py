"""Forward-backward check of flows: G17, made with OpenCV.

cv2.remap looks values up at positions rounded to 1/32 pixel. With flows rounded like that ours agree to
1e-4; with flows as they are, to what half of such a step makes of these rough flows.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.flow.consistency import (  # noqa: E402
    LARGEST_ERROR,
    consistent,
    resize_flow,
    round_trip_error,
    warp,
)


@pytest.fixture
def flows(golden):
    """The arrays; flows [1,2,h,w], the error and the mask [1,h,w]."""
    stored = {key: torch.from_numpy(value) for key, value in golden("G17_flow_consistency").items()}
    return {
        key: value.permute(2, 0, 1)[None] if value.dim() == 3 else value[None]
        for key, value in stored.items()
    }


def test_golden_resize_flow(flows):
    for name in ("fwd", "bwd"):
        half = resize_flow(flows[f"flow_{name}_full"], 24, 32)
        torch.testing.assert_close(half, flows[f"{name}_half"], rtol=0, atol=1e-5)


def test_golden_warp(flows):
    rounded = torch.round(flows["fwd_half"] * 32) / 32
    warped = warp(flows["bwd_half"], rounded)
    torch.testing.assert_close(warped, flows["bwd_warped"], rtol=0, atol=1e-4)


def test_golden_round_trip(flows):
    forward, backward = flows["fwd_half"], flows["bwd_half"]
    # A step of a flow from pixel to pixel, along x and y, times half of 1/32 pixel.
    steepest = max(float(backward.diff(dim=axis).abs().max()) for axis in (2, 3))
    rounding = 2 * steepest / 64
    error = round_trip_error(forward, backward)
    assert (error - flows["err"]).abs().max() < rounding
    unsure = (flows["err"] - LARGEST_ERROR).abs() < 0.02
    assert unsure.float().mean() < 0.05
    assert ((consistent(forward, backward) == flows["mask"]) | unsure).all()


def test_a_batch_is_its_pairs(flows):
    forward, backward = flows["fwd_half"], flows["bwd_half"]
    both = consistent(torch.cat([forward, backward]), torch.cat([backward, forward]))
    assert both.shape == (2, 24, 32)
    assert torch.equal(both[:1], consistent(forward, backward))
    assert torch.equal(both[1:], consistent(backward, forward))


def test_what_leaves_the_picture_is_not_trusted():
    away = torch.full((1, 2, 6, 8), 20.0)
    assert not consistent(away, -away).any()
    still = torch.zeros(1, 2, 6, 8)
    assert consistent(still, still).all()
