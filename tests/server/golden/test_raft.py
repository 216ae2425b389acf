"""RAFT against the reference: G13 and the listing of its state dict."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from megasam_server.models.correlation import CorrelationVolume  # noqa: E402
from megasam_server.models.raft import RADIUS, RaftFlow  # noqa: E402
from megasam_server.models.raft_keys import from_official, to_official  # noqa: E402
from megasam_shared.errors import MegasamError  # noqa: E402

from tests.server.golden.weight_rule import (  # noqa: E402
    golden_state_dict,
    key_listing,
    shapes_of,
)


@pytest.fixture
def official(golden):
    """The official state dict by the weight rule."""
    return golden_state_dict(key_listing(golden("raft_state_dict")))


@pytest.fixture
def raft(official):
    raft = RaftFlow()
    raft.network.load_state_dict(from_official(official, raft.network.state_dict()))
    return raft


@pytest.fixture
def reference(golden):
    return {key: torch.from_numpy(value) for key, value in golden("G13_raft").items()}


@pytest.fixture
def features(raft, reference):
    return raft.encode(reference["images_rgb_u8"].permute(0, 3, 1, 2))


def assert_near(ours, reference, relative=1e-5):
    """Within ``relative`` of the reference's largest value."""
    torch.testing.assert_close(
        ours, reference, rtol=0, atol=relative * float(reference.abs().max())
    )


def test_golden_state_dict_listing(golden, raft, official):
    listing = key_listing(golden("raft_state_dict"))
    ours = to_official(raft.network.state_dict())
    assert shapes_of(ours) == listing
    # Where norm3 and downsample.1 differ, the official network keeps what is loaded last.
    for key, value in ours.items():
        assert torch.equal(value, official[key.replace(".norm3.", ".downsample.1.")]), key


def test_keys_convert_there_and_back(raft):
    state = raft.network.state_dict()
    back = from_official(to_official(state), state)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_golden_encoders(raft, features, reference):
    assert_near(features.fmap[0], reference["fmap1_0"])
    hidden, context = reference["cnet_0"].split(128)
    assert_near(features.hidden[0], torch.tanh(hidden))
    assert_near(features.context[0], torch.relu(context))


def test_golden_correlation_lookup(features, reference):
    volume = CorrelationVolume(features.fmap[:1], features.fmap[1:], radius=RADIUS)
    ours = volume.lookup(reference["lookup_coords"][:1].permute(0, 2, 3, 1))
    assert_near(ours, reference["lookup"])


@pytest.mark.parametrize("iterations", [1, 4])
def test_golden_flow(raft, features, reference, iterations):
    there, back = raft.flow_both_ways(features[:1], features[1:], iterations)
    assert_near(torch.cat([there.low, back.low]), reference[f"flow_low_it{iterations}"])
    full = torch.cat([there.full, back.full])
    assert_near(full[:, :, ::2, ::2], reference[f"flow_up_it{iterations}"])


def test_golden_flow_from_an_earlier_one(raft, features, reference):
    init = reference["flow_init"]
    there, back = raft.flow_both_ways(features[:1], features[1:], 2, init[:1], init[1:])
    assert_near(torch.cat([there.low, back.low]), reference["flow_low_init2"])
    full = torch.cat([there.full, back.full])
    assert_near(full[:, :, ::2, ::2], reference["flow_up_init2_ds2"])


def test_one_way_is_half_of_both_ways(raft, features, reference):
    init = reference["flow_init"][:1]
    both = raft.flow_both_ways(features[:1], features[1:], 2, init_ab=init)
    there = raft.flow(features[:1], features[1:], 2, init)
    back = raft.flow(features[1:], features[:1], 2)
    torch.testing.assert_close(both[0].full, there.full)
    torch.testing.assert_close(both[1].full, back.full)


@pytest.mark.parametrize(("dtype", "relative"), [("float16", 0.02), ("bfloat16", 0.06)])
def test_half_precision(raft, reference, dtype, relative):
    """float16 as in the reference; bfloat16 has 8 times the rounding error."""
    raft.to(getattr(torch, dtype))
    features = raft.encode(reference["images_rgb_u8"].permute(0, 3, 1, 2))
    flow = raft.flow(features[:1], features[1:], 4)
    assert flow.low.dtype == flow.full.dtype == torch.float32
    assert_near(flow.low, reference["flow_low_it4"][:1], relative)


@pytest.mark.parametrize(
    ("height", "width", "code"),
    [
        (120, 256, "frame_too_small"),
        (256, 120, "frame_too_small"),
        (136, 130, "frame_size_not_multiple"),
    ],
)
def test_sizes_that_raft_cannot_take(raft, height, width, code):
    with pytest.raises(MegasamError) as error:
        raft.encode(torch.zeros(1, 3, height, width, dtype=torch.uint8))
    assert error.value.code == code
    assert f"{width}x{height}" in error.value.message
