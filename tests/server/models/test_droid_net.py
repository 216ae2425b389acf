"""The DROID network beyond the golden vectors: half precision, edges in any order, gradients."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from megasam_server.models.droid_net import DroidNet, EdgeSources  # noqa: E402

from tests.server.golden.weight_rule import fill_by_rule  # noqa: E402

HEIGHT, WIDTH = 9, 12
II = torch.tensor([4, 2, 4, 7, 2])


@pytest.fixture(scope="module")
def network() -> DroidNet:
    return fill_by_rule(DroidNet())


@pytest.fixture(scope="module")
def edges() -> dict[str, torch.Tensor]:
    """State and inputs of five edges, in the ranges the tracker gives."""
    torch.manual_seed(0)

    def normal(channels: int) -> torch.Tensor:
        return torch.randn(len(II), channels, HEIGHT, WIDTH)

    return {
        "net": torch.tanh(normal(128)),
        "inp": torch.relu(normal(128)),
        "corr": 6 * normal(196),
        "motion": (8 * normal(4)).clamp(-64, 64),
    }


@torch.inference_mode()
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        # Relative to the spread of each output, of the root mean square error: float16 has 11 bits,
        # bfloat16 8, through 15 layers of random weights.
        (torch.float16, 0.004),
        (torch.bfloat16, 0.03),
    ],
)
def test_half_precision_is_near(network, edges, dtype, tolerance):
    half = copy.deepcopy(network).to(dtype)
    exact = network.update(**edges, ii=II)
    found = half.update(**{name: value.to(dtype) for name, value in edges.items()}, ii=II)
    assert found.net.dtype == found.upmask.dtype == dtype
    for name in ("delta", "weight", "eta", "motion_weight", "static_probability"):
        assert getattr(found, name).dtype == torch.float32, name
    for name, expected in exact._asdict().items():
        error = (getattr(found, name).float() - expected).square().mean().sqrt() / expected.std()
        assert error < tolerance, (name, error)

    images = torch.randint(0, 256, (2, 3, 64, 72), dtype=torch.uint8)
    pairs = [(half.features(images), network.features(images))]
    pairs += zip(half.context(images), network.context(images), strict=True)
    for ours, expected in pairs:
        assert ours.dtype == dtype
        assert (ours.float() - expected).square().mean().sqrt() / expected.std() < tolerance


@torch.inference_mode()
def test_edges_in_another_order_give_the_same(network, edges):
    """Per source frame in ascending order, per edge in the order given."""
    order = torch.tensor([3, 0, 4, 2, 1])
    first = network.update(**edges, ii=II)
    second = network.update(**{k: v[order] for k, v in edges.items()}, ii=II[order])
    assert first.eta.shape == (3, HEIGHT, WIDTH)
    torch.testing.assert_close(second.eta, first.eta, rtol=0, atol=1e-6)
    torch.testing.assert_close(second.upmask, first.upmask, rtol=0, atol=1e-4)
    for name in ("net", "delta", "motion_weight", "static_probability"):
        ours, expected = getattr(second, name), getattr(first, name)[order]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_sources_made_beforehand_and_no_upsampling_mask(network, edges):
    plain = network.update(**edges, ii=II)
    prepared = network.update(**edges, ii=EdgeSources.of(II), with_upmask=False)
    assert prepared.upmask is None
    torch.testing.assert_close(prepared.eta, plain.eta, rtol=0, atol=0)


@torch.inference_mode()
def test_inputs_of_sources_made_beforehand(network, edges):
    """Of each frame once, then of as many edges as leave from it."""
    frames = edges["inp"][:3]
    index = torch.tensor([2, 0, 2, 1, 0])
    expected = network.update(**edges | {"inp": frames[index]}, ii=II)
    found = network.update(**edges | {"inp": network.source_inputs(frames)[index]}, ii=II)
    for name in ("net", "delta", "motion_weight"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_inputs_are_left_alone_in_either_layout(network, edges):
    """Steps may work in place: not on what the caller keeps."""
    last = {k: v.contiguous(memory_format=torch.channels_last) for k, v in edges.items()}
    before = {k: v.clone() for k, v in last.items()}
    ours, expected = network.update(**last, ii=II), network.update(**edges, ii=II)
    torch.testing.assert_close(ours.delta, expected.delta, rtol=0, atol=1e-5)
    for name, value in before.items():
        assert torch.equal(last[name], value), name


def test_mean_over_the_edges_of_a_source():
    torch.manual_seed(0)
    x = torch.randn(len(II), 3, 2, 4)
    sources = EdgeSources.of(II)
    assert sources.frames.tolist() == [2, 4, 7]
    expected = torch.stack([x[frame == II].mean(dim=0) for frame in (2, 4, 7)])
    torch.testing.assert_close(sources.mean(x), expected)


def test_every_weight_in_use_has_a_gradient(edges):
    """The network can be trained; only the parts without a reader stay still."""
    network = fill_by_rule(DroidNet())
    out = network.update(**edges, ii=II)
    sum(value.square().mean() for value in out).backward()
    still = {key for key, value in network.update.named_parameters() if value.grad is None}
    dead = ("conv4", "norm_4", "eta.0", "eta.2")
    assert still == {f"agg_motion.{layer}.{kind}" for layer in dead for kind in ("weight", "bias")}
