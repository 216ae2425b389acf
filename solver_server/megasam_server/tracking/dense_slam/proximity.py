"""Which pairs of frames become edges: those that see much of the same, spread out."""

from __future__ import annotations

import numpy as np

from megasam_server.tracking.dense_slam.options import ProximityRule

# Beyond this frame distance a pair is never linked, whatever the rule says.
_FAR = 100.0


def neighbours(count: int, reach: int) -> np.ndarray:
    """All ordered pairs [E, 2] of ``count`` frames that are at most ``reach`` apart."""
    i, j = np.meshgrid(np.arange(count), np.arange(count), indexing="ij")
    near = (i != j) & (abs(i - j) <= reach)
    return np.stack([i[near], j[near]], axis=1)


def candidates(first_i: int, first_j: int, count: int, radius: int) -> np.ndarray:
    """Pairs [P, 2] with ``i >= first_i``, ``first_j <= j <= i - radius``: what may be linked by distance."""
    i, j = np.meshgrid(np.arange(first_i, count), np.arange(first_j, count), indexing="ij")
    apart = i - radius >= j
    return np.stack([i[apart], j[apart]], axis=1)


def proximity_edges(
    pairs: np.ndarray,
    distances: np.ndarray,
    first_i: int,
    count: int,
    existing: np.ndarray,
    rule: ProximityRule,
    max_edges: float,
) -> np.ndarray:
    """Edges to add to the graph, both directions of each pair, in the order of the reference.

    First each frame from ``first_i`` on with the ``radius + 1`` before it; then the candidates by rising distance, each
    of which keeps others off around itself, until there are more than ``max_edges``. Some may exist already.

    Args:
        pairs: [P, 2] from :func:`candidates`.
        distances: [P] their frame distances.
        existing: [E, 2] edges that the graph has.

    Returns:
        [K, 2] integers.
    """
    if count < 2:
        return np.empty((0, 2), int)
    # A margin of nms on all sides, so that neighbourhoods at the border need no clipping.
    nms = rule.nms
    open_distance = np.full((count + 2 * nms, count + 2 * nms), np.inf)
    near = distances <= min(rule.max_distance, _FAR)
    pairs, distances = pairs[near], distances[near]
    open_distance[tuple(pairs.T + nms)] = distances

    for reach in range(1, nms + 1):
        rows = existing[np.minimum(abs(existing[:, 0] - existing[:, 1]) - 2, nms) == reach]
        shifted = rows[:, None, :] + _diamond(reach)[None]
        open_distance[tuple(shifted.reshape(-1, 2).T + nms)] = np.inf
    open_distance[tuple(existing.T + nms)] = np.inf

    edges: list[tuple[int, int]] = []
    for i in range(first_i, count):
        for j in range(max(i - rule.radius - 1, 0), i):
            edges += [(i, j), (j, i)]
            open_distance[i + nms, j + nms] = np.inf

    diamonds = [_diamond(reach) for reach in range(nms + 1)]
    for i, j in pairs[np.argsort(distances, kind="stable")].tolist():
        if np.isinf(open_distance[i + nms, j + nms]):
            continue
        if len(edges) > max_edges:
            break
        edges += [(i, j), (j, i)]
        around = diamonds[max(min(abs(i - j) - 2, nms), 0)]
        open_distance[i + nms + around[:, 0], j + nms + around[:, 1]] = np.inf
    return np.array(edges, int).reshape(-1, 2)


def _diamond(reach: int) -> np.ndarray:
    """Offsets [K, 2] with ``|di| + |dj| <= reach``."""
    di, dj = np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij")
    inside = abs(di) + abs(dj) <= reach
    return np.stack([di[inside], dj[inside]], axis=1)
