"""The order of the pairs, what each flow starts from, and what is kept of it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from megasam_server.flow.network_flow import (  # noqa: E402
    STEPS,
    compute_network_flow,
    open_network_flow,
    start_from,
    step_pairs,
)
from megasam_server.flow.sub_pixel import grey, refine_flow  # noqa: E402
from megasam_server.models.raft import Flow, RaftFeatures, RaftFlow  # noqa: E402

CPU = torch.device("cpu")
HEIGHT, WIDTH = 32, 48


class Script:
    """A flow network that answers with its own history: (source, target, what it started from)."""

    def __init__(self, most: int) -> None:
        self.most, self.batches = most, 0
        self.encoded: list[int] = []
        self.started: dict[tuple[int, int], int | None] = {}

    def encode(self, images):
        assert len(images) <= self.most
        numbers = images[:, 0, 0, 0]
        self.encoded += numbers.tolist()
        self.batches += 1
        value = numbers.float()[:, None, None, None]
        return RaftFeatures(value, value, value)

    def finish(self) -> None:
        pass

    def flow_both_ways(self, a, b, iterations, init_ab, init_ba):
        return tuple(self._flows(*ends) for ends in ((a, b, init_ab), (b, a, init_ba)))

    def _flows(self, source, target, init) -> Flow:
        lows, fulls = [], []
        for row in range(len(source.fmap)):
            i, j = int(source.fmap[row]), int(target.fmap[row])
            self.started[i, j] = None if init is None else round(float(100 * init[row, 0, 0, 0]))
            # Says in 1/800 pixels to which frame it leads, and in pixels by how many frames.
            lows.append(torch.full((2, HEIGHT // 8, WIDTH // 8), j / 100))
            fulls.append(torch.tensor([float(j - i), 0.0])[:, None, None].expand(2, HEIGHT, WIDTH))
        return Flow(torch.stack(lows), torch.stack(fulls))


def numbered(index: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), index, np.uint8)


@pytest.mark.parametrize(("count", "block"), [(2, 4), (20, 1), (37, 8), (40, 64)])
def test_every_pair_once_each_frame_encoded_once_and_starts_from_the_step_before(
    count, block, tmp_path
):
    network = Script(block)
    done = []
    flows = compute_network_flow(
        numbered,
        count,
        (WIDTH // 2, HEIGHT // 2),
        network,
        block,
        CPU,
        tmp_path,
        lambda *progress: done.append(progress),
    )
    wanted = {(i, i + s) for s in STEPS for i in range(count - s)}
    ahead = [tuple(pair) for pair in flows.pairs[::2].tolist()]
    assert len(ahead) == len(set(ahead))
    assert set(ahead) == wanted
    assert [tuple(p[::-1]) for p in flows.pairs[1::2].tolist()] == ahead
    assert sorted(network.encoded) == list(range(count))
    assert network.batches <= -(-count // block) + 1
    assert done[-1] == (len(ahead), len(ahead))

    # MegaSaM: forward from the same source, backward from the same target, one step before.
    before = dict(zip(STEPS[1:], STEPS, strict=False))
    for i, j in wanted:
        step = j - i
        there = None if step == 1 else i + before[step]
        back = None if step == 1 else j - before[step]
        assert network.started[i, j] == there
        assert network.started[j, i] == back

    again = open_network_flow(tmp_path, (WIDTH // 2, HEIGHT // 2))
    for pair, (i, j) in enumerate(flows.pairs.tolist()):
        np.testing.assert_allclose(again.flow(pair)[0], (j - i) / 2, rtol=1e-3)
        # Rounding may carry the first and last line out of the picture.
        inside = again.trust(pair)[1:-1, 8:-8]
        assert (inside == 1).all()
    # What leaves the picture has no flow back that could confirm it.
    assert (again.trust(0)[:, -1] == 0).all()
    assert (again.trust(1)[:, 0] == 0).all()


def test_only_far_motion_starts_where_the_shorter_step_points_to():
    flow = torch.zeros(3, 2, 6, 8)
    flow[0, 0], flow[1, 1] = 3.0, -10.0  # 24 and 80 pixels
    flow[2, 0, :3, :7] = 50.0  # far, but the smaller part
    start = start_from(flow, 15)
    assert torch.equal(start[[0, 2]], flow[[0, 2]])
    assert torch.allclose(start[1], flow[1] * 15 / 8)


def test_pairs_come_with_the_targets_so_that_few_features_are_alive():
    latest = 0
    for _, pairs in step_pairs(100, 8):
        assert all(i >= latest - 15 - 8 for i, _ in pairs)
        latest = max(latest, *(j for _, j in pairs))


def test_as_each_pair_alone_would_say(tmp_path):
    """RAFT itself, random weights: batches and what is kept of frames change nothing."""
    torch.manual_seed(0)
    network = RaftFlow()
    pictures = np.random.default_rng(1).integers(0, 256, (3, 128, 136, 3), np.uint8)
    flows = compute_network_flow(
        lambda i: pictures[i], 3, (136, 128), network, 4, CPU, tmp_path, lambda *_: None, 2
    )
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    features = network.encode(images)
    one = network.flow(features[[0]], features[[1]], 2)
    two = network.flow(features[[0]], features[[2]], 2, one.low)
    looks = grey(images)
    for (i, j), found in (((0, 1), one), ((0, 2), two)):
        expected = refine_flow(found.full, looks[[i]], looks[[j]])[0]
        index = flows.pairs.tolist().index([i, j])
        np.testing.assert_allclose(flows.flow(index), expected.numpy(), atol=5e-3, rtol=2e-3)
