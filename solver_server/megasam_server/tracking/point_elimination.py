"""The points of a bundle adjustment, eliminated a few at a time.

With E_p what couples the cameras with point p and C_p = L L^T the block of the point itself, the
points take the sum of W_p W_p^T, W_p = E_p L^-T, away from the system of the cameras (the Schur
complement; Hartley & Zisserman, 2nd ed., A6.3). E is mostly zeros, since a track is seen by some frames
in a row; but many products of small blocks are slow, and one of large dense matrices is fast. So
points that are seen at about the same time are taken together, and their part of W is a dense matrix
with rows for the cameras that see one of them, and for no others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megasam_server.media.in_order import map_in_order

_POINTS_TOGETHER = 192


@dataclass(frozen=True)
class _Group:
    """Points that are taken together.

    Attributes:
        points: which, int64 [q].
        sightings: of these points, int64 [m].
        columns: of the system, those that the sightings depend on, int64 [r].
        place: of each value of the sightings in the dense, flat [r + 1, q * dof], whose last row is
            for what is held: int64 [m,c,dof].
    """

    points: np.ndarray
    sightings: np.ndarray
    columns: np.ndarray
    place: np.ndarray

    def dense(self, values: np.ndarray) -> np.ndarray:
        """Values of all sightings [M,c,dof] -> those of the group, added up, [r, q * dof]."""
        rows, dof = len(self.columns) + 1, values.shape[2]
        flat = np.bincount(
            self.place.ravel(),
            values[self.sightings].ravel(),
            rows * len(self.points) * dof,
        )
        return flat.reshape(rows, -1)[:-1]


class PointElimination:
    """Which cameras and points meet: the same in every iteration.

    Args:
        camera, point: of each sighting, int64 [M].
        columns: of the system, of what may move of each camera, int64 [N,c]; ``size`` where it
            is held.
        size: of the system. dof: freedoms of a point.
    """

    def __init__(
        self, camera: np.ndarray, point: np.ndarray, columns: np.ndarray, size: int, dof: int
    ) -> None:
        order = np.lexsort((camera, point))
        ids, starts = np.unique(point[order], return_index=True)
        lengths = np.diff(np.append(starts, len(order)))
        first, last = camera[order[starts]], camera[order[starts + lengths - 1]]
        # Points with a long history keep to themselves: they need rows for all its cameras.
        history = np.log2(last - first + 1.0).astype(int)
        in_time = np.lexsort((first, history))
        self._groups = []
        for begin in range(0, len(ids), _POINTS_TOGETHER):
            chosen = in_time[begin : begin + _POINTS_TOGETHER]
            sightings = np.concatenate([order[starts[k] : starts[k] + lengths[k]] for k in chosen])
            slot = np.repeat(np.arange(len(chosen)), lengths[chosen])
            moved = columns[camera[sightings]]  # [m,c]
            used = np.setdiff1d(moved, [size])
            row = np.where(moved == size, len(used), np.searchsorted(used, moved))
            place = (row[:, :, None] * len(chosen) + slot[:, None, None]) * dof + np.arange(dof)
            self._groups.append(_Group(ids[chosen], sightings, used, place))

    def eliminate(
        self, system: np.ndarray, right: np.ndarray, whitened: np.ndarray, gradient: np.ndarray
    ) -> None:
        """Take the points' part away from the system of the cameras, in place.

        Args:
            system, right: float64 [size,size] and [size].
            whitened: what each sighting adds to W of its point, float64 [M,c,dof].
            gradient: of the points, L^-1 g, float64 [P,dof].
        """

        def part(group: _Group) -> tuple[np.ndarray, np.ndarray]:
            dense = group.dense(whitened)  # [r, q * dof]
            return dense @ dense.T, dense @ gradient[group.points].ravel()

        shares = map_in_order(part, self._groups)
        for group, (squared, projected) in zip(self._groups, shares, strict=True):
            system[np.ix_(group.columns, group.columns)] -= squared
            right[group.columns] -= projected
