"""Choice of edges, against the rule written out as loops."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")  # the options hold a torch type

from megasam_server.tracking.dense_slam.options import ProximityRule  # noqa: E402
from megasam_server.tracking.dense_slam.proximity import (  # noqa: E402
    candidates,
    neighbours,
    proximity_edges,
)


def by_loops(distance, first_i, first_j, count, existing, rule, max_edges):
    """The rule as DROID-SLAM states it, one pair at a time."""
    d = {
        (i, j): distance[i, j] if i - rule.radius >= j and distance[i, j] <= 100 else np.inf
        for i in range(first_i, count)
        for j in range(first_j, count)
    }

    def suppress(i, j):
        reach = max(min(abs(i - j) - 2, rule.nms), 0)
        for di in range(-rule.nms, rule.nms + 1):
            for dj in range(-rule.nms, rule.nms + 1):
                if abs(di) + abs(dj) <= reach and (i + di, j + dj) in d:
                    d[i + di, j + dj] = np.inf

    for i, j in existing:
        suppress(i, j)
    edges = []
    for i in range(first_i, count):
        for j in range(max(i - rule.radius - 1, 0), i):
            edges += [(i, j), (j, i)]
            d[i, j] = np.inf
    for i, j in sorted(d, key=d.get):
        if d[i, j] > rule.max_distance:
            continue
        if len(edges) > max_edges:
            break
        edges += [(i, j), (j, i)]
        suppress(i, j)
    return edges


@pytest.mark.parametrize("seed", range(30))
def test_the_same_edges_as_the_loops_in_the_same_order(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 30))
    first_i, first_j = sorted(rng.integers(0, max(count - 3, 1), 2).tolist(), reverse=True)
    first_j = 0 if first_i - 3 < first_j else first_j
    rule = ProximityRule(int(rng.integers(1, 3)), int(rng.integers(0, 4)), 12.0, 0.3)
    distance = rng.uniform(0, 20, (count, count))
    distance[rng.random((count, count)) < 0.1] = 1000.0
    existing = rng.integers(0, count, (int(rng.integers(0, 20)), 2))
    max_edges = int(rng.integers(4, 80))
    pairs = candidates(first_i, first_j, count, rule.radius)
    edges = proximity_edges(
        pairs, distance[tuple(pairs.T)], first_i, count, existing, rule, max_edges
    )
    expected = by_loops(distance, first_i, first_j, count, existing, rule, max_edges)
    assert [tuple(edge) for edge in edges.tolist()] == expected


def test_neighbours_lead_both_ways_and_not_to_themselves():
    assert neighbours(4, 2).tolist() == [
        *([0, 1], [0, 2], [1, 0], [1, 2], [1, 3], [2, 0], [2, 1], [2, 3], [3, 1], [3, 2])
    ]


def test_one_frame_has_no_edges():
    rule = ProximityRule(2, 1, 12.0, 0.3)
    none = np.empty((0, 2), int)
    assert proximity_edges(none, np.empty(0), 0, 1, none, rule, 48).shape == (0, 2)
