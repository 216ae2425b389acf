"""Stored flow as measurements of a frame's pixels from other cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megasam_server.flow.flow_store import FlowStore
from megasam_server.flow.rigid_fit import RigidFit
from megasam_server.geometry.camera import CameraPath
from megasam_server.geometry.two_view import Sighting, TwoView, pixel_grid


@dataclass(frozen=True)
class FlowSighting:
    """One flow field of a frame, sampled on a grid.

    Attributes:
        frame: the other frame.
        sighting: for :func:`fit_inverse_depth`; its weight is trust / sigma^2.
        trust: forward and backward flow agree, float32 0-1.
        sigma: noise of the pair, pixels.
    """

    frame: int
    sighting: Sighting
    trust: np.ndarray
    sigma: float


def sightings_of_frame(
    store: FlowStore, cameras: CameraPath, rigid: RigidFit, frame: int, stride: int
) -> list[FlowSighting]:
    """All flow from ``frame``, every ``stride``-th pixel; ``cameras`` are at the store's size."""
    x, y = pixel_grid(store.height, store.width)
    x, y = x[:, ::stride], y[::stride]
    found = []
    for p in store.pairs_from(frame):
        other = int(store.pairs[p, 1])
        view = TwoView.between(cameras, frame, other, rigid.turn[p])
        seen = np.ascontiguousarray(store.flow(p)[:, ::stride, ::stride])
        seen[0] += x
        seen[1] += y
        trust = np.ascontiguousarray(store.trust(p)[::stride, ::stride])
        sigma = float(rigid.sigma[p])
        sighting = Sighting(view, view.at_infinity(x, y), seen, trust / np.float32(sigma**2))
        found.append(FlowSighting(other, sighting, trust, sigma))
    return found
