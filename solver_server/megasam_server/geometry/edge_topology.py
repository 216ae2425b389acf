"""Which unknowns of a dense bundle adjustment meet: the index tables of its block sums.

They depend on the edges alone, and are made of them on the CPU; after that a bundle adjustment has
fixed shapes and never waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Edges are worked on in groups of about this many pixels: some 1 GB in float32.
PIXELS_AT_ONCE = 2**21
# The equations of the groups that are done are kept while they have no more rows of blocks than this
# for each of these pixels: 24 bytes a row, beside the 500 that a pixel takes in work.
_KEPT_ROWS = 5


@dataclass(frozen=True)
class SourceGroup:
    """Some source frames, with all of their edges.

    E edges and K source frames; each source meets at most D poses. A *slot* is a row of blocks of
    the reduced system: slots 0..P-1 are the free poses, slot P holds focal length and right side,
    slot P+1 takes what belongs to fixed poses and is thrown away.

    Attributes:
        edges: [E] position in the caller's edges.
        ii, jj: [E] frames.
        source: [E] position of ii in ``sources``.
        sources: [K] frames.
        edge_blocks: [E*9] where the 3x3 blocks of (pose i, pose j, slot P) go in the system.
        rows: [2E] where the blocks of (pose i) and (pose j) against disparity go, as position in
            K*(D+1) rows plus one that is thrown away.
        row_slots: [K, D+1] slot of each row; the last is P, unused ones are P+1.
        row_blocks: [K*(D+1)*(D+1)] where products of two rows go in the system.
    """

    edges: Tensor
    ii: Tensor
    jj: Tensor
    source: Tensor
    sources: Tensor
    edge_blocks: Tensor
    rows: Tensor
    row_slots: Tensor
    row_blocks: Tensor


@dataclass(frozen=True)
class EdgeTopology:
    """Index tables of one set of edges, for :func:`dense_bundle_adjust`.

    Attributes:
        first_free, end: frames first_free..end-1 have free poses.
        groups: the source frames, in groups that fit in memory.
        keeps_equations: those of all groups fit in memory together, once they are formed.
    """

    first_free: int
    end: int
    groups: tuple[SourceGroup, ...]
    keeps_equations: bool

    @property
    def free(self) -> int:
        """Number of free poses, P."""
        return self.end - self.first_free

    @classmethod
    def build(
        cls,
        edges: np.ndarray,
        first_free: int,
        end: int,
        pixels: int,
        device: torch.device,
        pixels_at_once: int = PIXELS_AT_ONCE,
    ) -> EdgeTopology:
        """Tables on ``device`` for ``edges`` ii -> jj, integers [E, 2].

        Sources are the frames of ii and all free frames. ``pixels`` is the size h*w of a disparity
        map; ``pixels_at_once`` bounds the pixels of a group's edges (a single source frame is never
        split).

        Raises:
            ValueError: an edge from a frame to itself, or an empty range of free frames.
        """
        ii, jj = edges.T
        if (ii == jj).any():
            raise ValueError("an edge leads from a frame to itself")
        if not 0 <= first_free < end:
            raise ValueError(f"no free frames in {first_free}..{end - 1}")
        free = end - first_free
        sources, degree = np.unique(
            np.concatenate([np.arange(first_free, end), ii]), return_counts=True
        )
        # The free frames were counted once more than they have edges.
        degree = degree - ((sources >= first_free) & (sources < end))
        # Like degrees together: a group is padded to its largest, which is its last.
        order = np.argsort(degree, kind="stable")
        parts, start = [], 0
        for position, count in enumerate(np.maximum(degree[order], 1).tolist()):
            # Its pixels, and its products of rows, which cost about as much as three pixels each.
            cost = count * pixels + 3 * (count + 1) ** 2
            if position > start and (position + 1 - start) * cost > pixels_at_once:
                parts.append(order[start:position])
                start = position
        parts.append(order[start:])
        groups = tuple(
            _group(ii, jj, np.sort(sources[part]), first_free, free, device) for part in parts
        )
        rows = sum(group.row_slots.numel() for group in groups) * pixels
        keeps = len(groups) == 1 or rows <= _KEPT_ROWS * pixels_at_once
        return cls(first_free, end, groups, keeps)


def _group(
    ii: np.ndarray, jj: np.ndarray, sources: np.ndarray, first_free: int, free: int, device
) -> SourceGroup:
    edges = np.flatnonzero(np.isin(ii, sources))
    ii, jj = ii[edges], jj[edges]
    source = np.searchsorted(sources, ii)
    extra, fixed = free, free + 1  # the two slots that are no pose
    edge_slots = np.stack([ii, jj], axis=1) - first_free
    edge_slots[(edge_slots < 0) | (edge_slots >= free)] = fixed
    triple = np.concatenate([edge_slots, np.full((len(edges), 1), extra)], axis=1)
    edge_blocks = triple[:, :, None] * (free + 2) + triple[:, None, :]

    # The free poses that each source meets, without repetition: (source, slot) pairs, sorted.
    keys = np.repeat(source, 2) * (free + 2) + edge_slots.ravel()
    met = np.unique(keys[edge_slots.ravel() < free])
    met_source, met_slot = np.divmod(met, free + 2)
    first = np.searchsorted(met_source, np.arange(len(sources)))
    rank = np.arange(len(met)) - first[met_source]
    depth = int(rank.max(initial=-1)) + 2  # D + 1
    row_slots = np.full((len(sources), depth), fixed)
    row_slots[met_source, rank] = met_slot
    row_slots[:, -1] = extra
    position = np.append(met_source * depth + rank, len(sources) * depth)
    found = np.searchsorted(met, keys)
    rows = np.where(edge_slots.ravel() < free, position[found], len(sources) * depth)
    row_blocks = row_slots[:, :, None] * (free + 2) + row_slots[:, None, :]

    def on_device(table: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(table, dtype=np.int64)).to(device)

    return SourceGroup(
        edges=on_device(edges),
        ii=on_device(ii),
        jj=on_device(jj),
        source=on_device(source),
        sources=on_device(sources),
        edge_blocks=on_device(edge_blocks.ravel()),
        rows=on_device(rows),
        row_slots=on_device(row_slots),
        row_blocks=on_device(row_blocks.ravel()),
    )
