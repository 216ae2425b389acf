"""The flow of a window, from its file to the device."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.flow.flow_store import FlowStore  # noqa: E402
from megasam_server.video_depth.window_flow import read_flow  # noqa: E402

EDGES = np.array([(0, 1), (1, 2), (0, 2)])
HEIGHT, WIDTH = 6, 10
CPU = torch.device("cpu")


@pytest.fixture
def stored(tmp_path):
    """Six pairs with a random flow and trust in the left half."""
    store = FlowStore.create(tmp_path, EDGES, WIDTH, HEIGHT)
    random = np.random.default_rng(0)
    flow = random.normal(0, 3, (6, 2, HEIGHT, WIDTH)).astype(np.float16)
    trust = np.zeros((6, HEIGHT, WIDTH), bool)
    trust[:, :, : WIDTH // 2] = True
    trust[4] = False
    for one in zip(flow, trust, strict=True):
        store.append(*one)
    return store, flow, trust


def test_flow_of_the_stored_size_is_what_was_stored(stored):
    store, flow, trust = stored
    chosen = np.array([4, 0, 3])
    found, mask = read_flow(store, chosen, HEIGHT, WIDTH, CPU)
    assert found.dtype == torch.float16 and mask.dtype == torch.bool
    np.testing.assert_array_equal(found, flow[chosen])
    np.testing.assert_array_equal(mask, trust[chosen])


def test_flow_at_half_the_size_is_half_as_long(stored):
    store, flow, trust = stored
    found, mask = read_flow(store, np.array([1, 4]), HEIGHT // 2, WIDTH // 2, CPU)
    blocks = flow[[1, 4]].astype(np.float32).reshape(2, 2, HEIGHT // 2, 2, WIDTH // 2, 2)
    np.testing.assert_allclose(found, blocks.mean((3, 5)) / 2, atol=2e-3)
    # The pixel in the middle of an even block is the one after it.
    np.testing.assert_array_equal(mask, trust[[1, 4], 1::2, 1::2])


def test_no_pairs(stored):
    found, mask = read_flow(stored[0], np.array([], int), HEIGHT, WIDTH, CPU)
    assert found.shape == (0, 2, HEIGHT, WIDTH) and mask.shape == (0, HEIGHT, WIDTH)


def test_a_file_that_ends_early_is_an_error(stored):
    store = stored[0]
    store.trust_path.write_bytes(store.trust_path.read_bytes()[:-1])
    with pytest.raises(OSError, match="ends before the flow of pair 5"):
        read_flow(store, np.array([5]), HEIGHT, WIDTH, CPU)
